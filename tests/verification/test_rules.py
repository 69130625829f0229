"""A rule is called by its case, and is the one that the table of verified operators was made with."""

from alpha_func.capture.derivatives.rule import RULES
from tests.verification import rules


def test_the_program_of_a_case_calls_its_operator():
    assert [str(operator) for operator in RULES if operator not in rules.calls()] == []


def test_the_table_was_made_with_the_rules_as_they_are():
    made_with = rules.recorded()
    changed = [str(operator) for operator in RULES if made_with.get(str(operator)) != rules.written(operator)]
    assert not changed, (
        f"{', '.join(changed)}: the rule is not the one that operators.csv was made with. For operators of PyTorch "
        "that call it: python -m tests.verification.verify_operators --part sweeps --only NAME ..."
    )

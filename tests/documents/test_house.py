"""The rules of the house that can be counted: the map and the recipes are in CONTRIBUTING.md."""

import ast
from collections import Counter
from pathlib import Path

import alpha_func

ROOT = Path(__file__).parents[2]
PACKAGE = Path(alpha_func.__file__).parent
TESTS = sorted((ROOT / "tests").rglob("test_*.py"))

# From the ground up: a room imports those before it.
FLOORS = (
    *("calls", "errors", "whereabouts", "torch_private", "shards", "tree", "quadratic", "taylor", "span"),
    *("losses", "verified", "transforms", "capture", "check", "linear_operators"),
    *("optimizers", "step_rules", "data_sets", "observer", "experiment"),
)
MIRRORS = {"verified": "verification"}


def imported(path):
    """The rooms that a module imports when it is imported itself."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "alpha_func":
            _, *rest = node.module.split(".")
            yield from rest[:1] or [alias.name for alias in node.names]


def test_imports_go_down_the_floors_and_never_back():
    back = []
    for path in sorted(PACKAGE.rglob("*.py")):
        room = path.relative_to(PACKAGE).with_suffix("").parts[0]
        if room in FLOORS:
            above = FLOORS[FLOORS.index(room) + 1 :]
            back += [f"{path.name} imports {other}" for other in imported(path) if other in above]
    assert back == []


def test_every_room_has_a_floor():
    rooms = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert rooms - {"__init__", "__main__"} == set(FLOORS)


def test_every_room_has_its_mirror_among_the_tests():
    rooms = [path.parent.relative_to(PACKAGE) for path in PACKAGE.rglob("__init__.py")]
    missing = [str(room) for room in rooms if not (ROOT / "tests" / MIRRORS.get(str(room), room)).is_dir()]
    assert missing == []


def test_a_module_has_at_most_300_lines():
    lines = {path.relative_to(PACKAGE): path.read_text().count("\n") for path in PACKAGE.rglob("*.py")}
    assert {str(path): n for path, n in lines.items() if n > 300} == {}


def test_no_two_classes_have_one_name():
    nodes = (node for path in PACKAGE.rglob("*.py") for node in ast.walk(ast.parse(path.read_text())))
    names = Counter(node.name for node in nodes if isinstance(node, ast.ClassDef))
    assert [name for name, times in names.items() if times > 1] == []


def test_the_name_of_a_test_is_under_70_characters():
    nodes = (node for path in TESTS for node in ast.walk(ast.parse(path.read_text())))
    names = [node.name for node in nodes if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")]
    assert [name for name in names if len(name) >= 70] == []

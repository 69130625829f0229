"""How far to step along a direction whose quadratic is known: rules of the field, each as a pure function."""

from alpha_func.step_rules.armijo import armijo
from alpha_func.step_rules.cdat import cdat
from alpha_func.step_rules.greedy import damped, greedy
from alpha_func.step_rules.pal import pal
from alpha_func.step_rules.polyak import polyak
from alpha_func.step_rules.rule import RuleState, StepRule
from alpha_func.step_rules.trusted import accepts, trusted

__all__ = ["RuleState", "StepRule", "accepts", "armijo", "cdat", "damped", "greedy", "pal", "polyak", "trusted"]

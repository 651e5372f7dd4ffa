"""Mixing rules: pure functions from a neighbourhood's states to the node's new one.

Adding one: a file beside this one, a line in ``RULES``, a row in tests/rules/test_conformance.py.
"""

from flwr_decaf.rules.average import average
from flwr_decaf.rules.contract import Rule
from flwr_decaf.rules.factorize import factorize
from flwr_decaf.rules.frozen import frozen

RULES: dict[str, Rule] = {
    "average": average,  # DLoRA
    "factorize": factorize,  # DeCAF
    "frozen": frozen,  # DLoRA-FA
}

__all__ = ["RULES", "Rule", "average", "factorize", "frozen"]

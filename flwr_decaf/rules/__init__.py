"""Mixing rules: pure functions from a neighbourhood's states to the node's new one.

Adding one: a file beside this one, a line in ``registries.RULES``, a row in
tests/rules/test_conformance.py.
"""

from collections.abc import Callable

from flwr_decaf import registries
from flwr_decaf.registries import Registry
from flwr_decaf.rules.average import average
from flwr_decaf.rules.contract import Rule
from flwr_decaf.rules.factorize import factorize
from flwr_decaf.rules.frozen import frozen

RULES: Registry[Rule] = Registry(registries.RULES)
ROBUST: Registry[Callable[[Rule, int], Rule]] = Registry(registries.ROBUST)

# Rules for which a node aligns its neighbours' states to its own first.
ALIGNED = {"matched"}

# Neighbours that a node must have to mix at all, by the number that may lie.
NEEDED: dict[str, Callable[[int], int]] = {
    "none": lambda liars: 0,
    "clipping": lambda liars: liars + 1 if liars else 0,
    "trimmed-mean": lambda liars: 2 * liars,
}


def check_robust(name: str, liars: int) -> None:
    """Refuse a name that is not in ``ROBUST``, or a negative number of liars."""
    if name not in ROBUST or liars < 0:
        raise ValueError(
            f"robust must be one of {', '.join(ROBUST)}, and liars >= 0; got {name!r} and {liars}; "
            "take one of these"
        )


__all__ = [
    "ALIGNED",
    "NEEDED",
    "ROBUST",
    "RULES",
    "Rule",
    "average",
    "check_robust",
    "factorize",
    "frozen",
]

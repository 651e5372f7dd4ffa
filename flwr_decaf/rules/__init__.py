"""Mixing rules: pure functions from the states of a neighbourhood to the node's new state.

To add a rule, write a file in this folder, a line in ``registries.RULES`` and a row in
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

# Rules for which a node first aligns its neighbours' states to its own.
ALIGNED = {"matched"}

# Rules that mix the products of LoRA pairs, which is not linear in the factors.
FACTORIZING = {"factorize"}

# Number of Byzantine neighbours -> number of neighbours that a node needs in order to mix.
NEEDED: dict[str, Callable[[int], int]] = {
    "none": lambda byzantine: 0,
    "clipping": lambda byzantine: byzantine + 1 if byzantine else 0,
    "trimmed-mean": lambda byzantine: 2 * byzantine,
}


__all__ = [
    "ALIGNED",
    "FACTORIZING",
    "NEEDED",
    "ROBUST",
    "RULES",
    "Rule",
    "average",
    "factorize",
    "frozen",
]

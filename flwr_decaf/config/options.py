"""Options of a strategy: frozen dataclasses for both the settings and constructors.

A field declares the name, default, meaning and check of an option once: ``Config`` inherits the
fields, or has the dataclass as a section, and strategies take the dataclasses as arguments.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from flwr_decaf.checks import at_least, one_of, positive_share, share
from flwr_decaf.config.setting import checked, setting
from flwr_decaf.registries import ROBUST
from flwr_decaf.topology.participation import NodesByRound, read_schedule

Kind = TypeVar("Kind")


@dataclass(frozen=True)
class Options:
    """Base of option objects; checks each field by its declaration.

    Raises
    ------
    ValueError
        One line with the name of the field, the rule, the value and the remedy.
    """

    def __post_init__(self) -> None:
        for declared in fields(self):
            if "check" in declared.metadata:  # otherwise it is a section, which checks itself
                value = getattr(self, declared.name)
                value = value.item() if hasattr(value, "item") else value  # of NumPy or PyTorch
                default: Any = declared.default
                value = checked(declared.name, value, default, declared.metadata)
                object.__setattr__(self, declared.name, value)


@dataclass(frozen=True)
class Evaluation(Options):
    """Rounds and nodes that are evaluated.

    Parameters
    ----------
    evaluate_every : int
        Evaluate in every ``evaluate_every``-th round and in the last; by default 1. With 0, nodes
        are never evaluated, and neither consensus distance nor interference is measured.
    evaluate_fraction : float
        Share of the nodes that are evaluated, drawn anew in each of these rounds; by default 1.0.
        The last round evaluates all nodes.
    """

    evaluate_every: int = setting(
        1,
        "Number of rounds between two evaluations; 0 evaluates only before the first round.",
        at_least(0, "0 evaluates only before the first round"),
    )
    evaluate_fraction: float = setting(
        1.0,
        "Share of the nodes that are evaluated between the first and the last evaluation.",
        positive_share("1 evaluates all nodes; evaluate-every = 0 evaluates none"),
    )


@dataclass(frozen=True)
class Failures(Options):
    """Nodes that fail in a round.

    Parameters
    ----------
    retries : int
        Number of times a node that replies with an error is called again; by default 1.
    max_failures : int or None
        Number of nodes that may fail in a round before the run stops; by default, and for None or
        -1, half of them.
    """

    retries: int = setting(
        1,
        "Number of times a failed node is called again in a round.",
        at_least(0, "0 leaves a failed node out for the round"),
    )
    max_failures: int | None = setting(
        -1,
        "Number of nodes that may fail in a round before the run stops; -1 allows half of them.",
        at_least(-1, "-1 allows half of the nodes to fail"),
    )

    def __post_init__(self) -> None:
        if self.max_failures is None:
            object.__setattr__(self, "max_failures", -1)
        super().__post_init__()

    def tolerated(self, n: int) -> int:
        """Return how many of n nodes may fail in a round."""
        limit = self.max_failures
        return n // 2 if limit is None or limit < 0 else limit


@dataclass(frozen=True)
class Participation(Options):
    """Nodes that participate in a round.

    Parameters
    ----------
    participation : sequence of sequence of int, or str
        Nodes of each round, as lists that are used in turn, JSON text, or the path of a JSON file;
        by default all nodes in every round.
    drop_probability : float
        Probability that a node does not participate in a round; by default 0.0.
    """

    participation: str | NodesByRound = setting(  # noqa: RUF009 - it declares a field
        "",
        "Nodes that participate in each round, as a JSON list of lists or the path of a file with "
        "one; by default all.",
    )
    drop_probability: float = setting(
        0.0,
        "Probability that a node does not participate in a round.",
        share("with 0, every node participates in every round"),
    )

    def __post_init__(self) -> None:
        given = self.participation
        schedule = read_schedule(given) if given else []  # raises if it cannot be read
        text = given if isinstance(given, str) else json.dumps(schedule) if schedule else ""
        object.__setattr__(self, "participation", text)
        super().__post_init__()

    @property
    def schedule(self) -> NodesByRound:
        """Nodes of each round, as lists; empty for all nodes."""
        return read_schedule(self.participation)


@dataclass(frozen=True)
class Robust(Options):
    """Mixing that tolerates Byzantine neighbours.

    Parameters
    ----------
    method : str
        Robust mixing rule, a key of ``registries.ROBUST``; by default "none".
    byzantine : int
        Number of Byzantine neighbours that a node tolerates; by default 1.
    """

    method: str = setting(
        "none", "Robust mixing rule against Byzantine neighbours.", one_of(ROBUST)
    )
    byzantine: int = setting(
        1,
        "Number of Byzantine neighbours that a node tolerates.",
        at_least(0, "the number of a node's neighbours that may be Byzantine"),
    )


@dataclass(frozen=True)
class Attack(Options):
    """Attacks by Byzantine nodes, for studies.

    Parameters
    ----------
    sign_flipping : int
        Number of nodes whose neighbours receive the negative of their model; by default 0. These
        nodes are not evaluated.
    """

    sign_flipping: int = setting(
        0,
        "Number of Byzantine nodes that post the negative of their model.",
        at_least(0, "the number of nodes that post the negative of their model"),
    )


def part(config: Any, kind: type[Kind]) -> Kind:
    """Extract an option object from a ``Config``, which inherits its fields."""
    return kind(**{one.name: getattr(config, one.name) for one in fields(kind)})  # type: ignore[arg-type]

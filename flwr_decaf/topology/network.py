"""Networks: the mixing matrix of every round, for graphs that stay and graphs that change."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np

from flwr_decaf.topology.given import Given, as_topology
from flwr_decaf.topology.graphs import Matrix, read_rounds
from flwr_decaf.topology.mixing_matrix import (
    WEIGHTS,
    Links,
    build_network,
    degrees_of,
    lambda2,
    links_of,
    matrix_of,
    weigh,
)
from flwr_decaf.topology.time_varying import CHANGING, check_dynamic, period_of

# Rounds over which rho is estimated: so many, or fewer once their weights are many together. Each
# edge of the base that has to be drawn counts as a fraction of a weight.
_MOST_ROUNDS, _FEWEST_ROUNDS = 500, 4
_LARGEST = 1e6
_DRAWS_FOR_ONE = 10
_ROUNDING = 1e-9
_NEVER = 1 - _ROUNDING  # a rho from here on is 1: the nodes never agree


class Rho(NamedTuple):
    """The second largest eigenvalue of E[W^T W], which says how fast a network agrees.

    E||X_t - mean||^2 <= rho^t ||X_0 - mean||^2 (Boyd et al. 2006). For a constant graph it is
    ``lambda2(W)**2``, for one with a period the expectation is the mean over the period, and else
    the mean over rounds that are drawn: ``value`` is then an estimate.

    Attributes
    ----------
    value : float
        rho, in [0, 1].
    standard_error : float
        Of the mean over the rounds drawn, along the slowest direction; 0 where rho is exact.
    rounds : int
        How many rounds the expectation was taken over.
    """

    value: float
    standard_error: float
    rounds: int


@dataclass(frozen=True, eq=False)
class Network:
    """Who takes how much of whom.

    Attributes
    ----------
    base : ndarray
        W of the graph from which the rounds' graphs are drawn, of shape (n, n).
    links : callable
        Round, from 1 -> the edges of that round, and their weights.
    period : int or None
        Rounds after which the matrices repeat, 1 for a constant graph; None if they are drawn anew.
    """

    base: Matrix
    links: Callable[[int], Links]
    period: int | None = 1

    @property
    def changes(self) -> bool:
        """Whether rounds differ."""
        return self.period != 1

    def of_round(self, server_round: int) -> Matrix:
        """Get W of a round, from 1; symmetric and doubly stochastic like any other."""
        return matrix_of(self.links(server_round), len(self.base)) if self.changes else self.base

    @cached_property
    def rho(self) -> Rho:
        """How fast the network agrees; computed once."""
        if not self.changes:
            return Rho(lambda2(self.base) ** 2, 0.0, 1)
        try:
            from flwr_decaf.topology.contraction import contraction_of
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "rho of a time-varying network needs the package scipy; it is not installed; run "
                "pip install scipy, or give the phase length of TAD-LoRA as a number"
            ) from error

        rounds: list[Links] = []
        size, drawn = 0, int(np.count_nonzero(self.base)) // _DRAWS_FOR_ONE
        while len(rounds) < (self.period or _MOST_ROUNDS):
            rounds.append(self.links(len(rounds) + 1))
            size += 2 * len(rounds[-1].edges) + len(self.base) + drawn
            if self.period is None and size > _LARGEST and len(rounds) >= _FEWEST_ROUNDS:
                break
        exact = self.period is not None
        return Rho(*contraction_of(rounds, len(self.base), exact), len(rounds))


def build_changing_network(
    topology: Given,
    n: int,
    weights: str = "metropolis",
    seed: int = 0,
    topology_options: Mapping[str, Any] | None = None,
    dynamic: str = "static",
) -> Network:
    """Turn whatever describes a network into the mixing matrix of every round.

    Parameters
    ----------
    topology, n, weights, seed
        See ``mixing_matrix.build_network``. A file may also list graphs, which take turns.
    topology_options : mapping, optional
        ``edge_probability`` and ``degree`` of the base, ``activation_probability`` of its edges.
    dynamic : str
        A key of ``changing_graphs.CHANGING``.

    Raises
    ------
    ValueError
        If there is no such network on n nodes, or it is a matrix or a list and ``dynamic`` asks
        for graphs drawn from it.

    Examples
    --------
    >>> network = build_changing_network("ring", 4, dynamic="one-peer-exponential")
    >>> (network.of_round(1) @ network.of_round(2)).tolist()[0]
    [0.25, 0.25, 0.25, 0.25]
    """
    topology = as_topology(topology)
    check_dynamic(dynamic)
    options = {**(topology_options or {})}
    probability = float(options.pop("activation_probability", 0.5))
    is_file = isinstance(topology, str) and topology.endswith(".json")
    listed = read_rounds(str(topology)) if is_file else []
    if dynamic != "static" and (listed or isinstance(topology, np.ndarray)):
        raise ValueError(
            f"topology.dynamic draws from a graph; got {dynamic!r} with a matrix or a list of "
            'graphs; set it to "static", or describe the base by edges'
        )
    if listed:
        each = [weigh(one, n, weights) for one in listed]
        turns = [links_of(w) for w in each]
        mean = np.mean(each, axis=0)
        return Network(mean, lambda t: turns[(t - 1) % len(turns)], period=len(turns))
    base = build_network(topology, n, weights, seed, options)
    draw = CHANGING[dynamic](links_of(base).edges, n, seed, probability)

    def links(server_round: int) -> Links:
        edges = draw(server_round)
        return Links(edges, WEIGHTS[weights](edges, n))

    return Network(base, links, period_of(dynamic, n))


def phase_length(network: Network) -> int:
    """Rounds of one phase that TAD-LoRA's analysis asks for: 1 / sqrt(1 - rho), rounded.

    The paper (arXiv 2602.00451) gives T* = Theta(1 / sqrt(1 - rho)); its constant is 1 here.

    Raises
    ------
    ValueError
        If rho is 1: the nodes never agree, and no T helps.
    """
    value = network.rho.value
    if value >= _NEVER:
        raise ValueError(
            "tad.phase-length = auto needs a network on which the nodes agree in time; got rho = 1 "
            "(in pieces, whatever the round); connect the graph, or give the length as a number"
        )
    return max(1, round(1 / math.sqrt(1 - value)))


def describe(network: Network) -> list[str]:
    """Say in a few words how many edges a network has, and how fast it agrees."""
    degrees = degrees_of(network.base)
    lines = [
        f"Nodes: {len(degrees)}, edges: {degrees.sum() // 2}, degree: {degrees.min()} to "
        f"{degrees.max()}",
        f"lambda2: {lambda2(network.base):.4f}",
    ]
    # SciPy comes with the app; the strategies of other projects do without it, and without rho.
    if network.changes and find_spec("scipy"):
        lines.append(f"rho: {rho_in_words(network.rho)}")
    return lines


def rho_in_words(rho: Rho) -> str:
    """Write rho as text, with its standard error where it is an estimate."""
    if rho.standard_error < _ROUNDING:
        return f"{rho.value:.4f}"
    return f"{rho.value:.4f} (standard error {rho.standard_error:.1g}, {rho.rounds} rounds drawn)"

"""Networks: the mixing matrix of every round, for constant and time-varying graphs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flwr_decaf.topology.base_graphs import Round
from flwr_decaf.topology.conversion import TopologyLike, as_topology
from flwr_decaf.topology.graphs import Matrix, read_rounds
from flwr_decaf.topology.mixing_matrix import (
    Links,
    as_mixing_matrix,
    build_mixing_matrix,
    degrees_of,
    lambda2,
    links_of,
    matrix_of,
)
from flwr_decaf.topology.rows import Rows, rows_of, rows_of_matrix
from flwr_decaf.topology.time_varying import FINITE_TIME, TIME_VARYING, check_dynamic, period_of
from flwr_decaf.topology.weights import WEIGHTS

# rho is estimated over _MOST_ROUNDS rounds, or fewer if they have _LARGEST weights in total. An
# edge of the base graph from which a round is drawn counts as 1 / _DRAWS_FOR_ONE of a weight.
_MOST_ROUNDS, _FEWEST_ROUNDS = 500, 4
_LARGEST = 1e6
_DRAWS_FOR_ONE = 10
_ROUNDING = 1e-9


class Rho(NamedTuple):
    """The second largest eigenvalue of E[W^T W], the rate at which a network reaches consensus.

    E||X_t - mean||^2 <= rho^t ||X_0 - mean||^2 (Boyd et al. 2006). For a constant graph, it is
    ``lambda2(W)**2``. For a periodic one, the expectation is the mean over the period; otherwise it
    is the mean over a sample of rounds, and ``value`` is an estimate.

    Attributes
    ----------
    value : float
        rho, in [0, 1].
    standard_error : float
        Standard error of the mean over the sampled rounds, along the slowest direction; 0 if rho is
        exact.
    rounds : int
        Number of rounds over which the expectation was taken.
    """

    value: float
    standard_error: float
    rounds: int


@dataclass(frozen=True, eq=False)
class Network:
    """The mixing matrix of every round.

    Attributes
    ----------
    base : ndarray
        W of the graph from which the graphs of the rounds are drawn, of shape (n, n).
    links : callable
        Round, counted from 1 -> the edges of that round and their weights.
    period : int or None
        Number of rounds after which the matrices repeat: 1 (the default) for a constant graph, None
        if every round is drawn anew.
    """

    base: Matrix
    links: Callable[[int], Links]
    period: int | None = 1

    @property
    def is_time_varying(self) -> bool:
        """Whether the mixing matrix differs between rounds."""
        return self.period != 1

    def of_round(self, server_round: int) -> Matrix:
        """Return W of a round, counted from 1; it is symmetric and doubly stochastic."""
        if not self.is_time_varying:
            return self.base
        w = self.rows(server_round).matrix()
        w.setflags(write=False)
        return w

    def rows(self, server_round: int) -> Rows:
        """Return the rows of W of a round, counted from 1, without its zeros."""
        return self._last_drawn(server_round if self.is_time_varying else 0)

    @cached_property
    def _last_drawn(self) -> Callable[[int], Rows]:
        """Draw a round once, although the rows of all nodes are read one by one."""

        @lru_cache(maxsize=1)
        def drawn(server_round: int) -> Rows:
            if not server_round:
                return rows_of_matrix(self.base)
            return rows_of(self.links(server_round), len(self.base))

        return drawn

    @cached_property
    def rho(self) -> Rho:
        """The rate at which the network reaches consensus; computed only once.

        Raises
        ------
        ModuleNotFoundError
            If the network is time-varying and SciPy is not installed.
        """
        if not self.is_time_varying:
            return Rho(lambda2(self.base) ** 2, 0.0, 1)
        try:
            from flwr_decaf.topology.contraction import contraction_of
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "rho of a time-varying network needs the package scipy; it is not installed; run "
                "pip install scipy, or set the phase length of TAD-LoRA to a number"
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


def build_time_varying_network(
    topology: TopologyLike,
    n: int,
    weights: str = "metropolis",
    seed: int = 0,
    topology_options: Mapping[str, Any] | None = None,
    dynamic: str = "static",
) -> Network:
    """Build a network, which may be time-varying.

    Parameters
    ----------
    topology, n, weights, seed
        See ``build_mixing_matrix``. A file may also list graphs, which are used in turn.
    topology_options : mapping, optional
        ``edge_probability`` and ``degree`` of the base graph; ``activation_probability`` of its
        edges (by default 0.5); ``peers``, the largest number of neighbours of a node in a round of
        "base" (by default 1).
    dynamic : str
        One of ``time_varying.DYNAMIC``, by default "static". Base graphs ignore ``topology`` and
        ``weights``.

    Returns
    -------
    Network
        The mixing matrix of every round.

    Raises
    ------
    ValueError
        If there is no such network on n nodes, or ``dynamic`` is not "static" for a matrix or a
        list of graphs.

    Examples
    --------
    >>> network = build_time_varying_network("ring", 4, dynamic="one-peer-exponential")
    >>> (network.of_round(1) @ network.of_round(2)).tolist()[0]
    [0.25, 0.25, 0.25, 0.25]
    """
    topology = as_topology(topology)
    check_dynamic(dynamic)
    options = {**(topology_options or {})}
    probability = float(options.pop("activation_probability", 0.5))
    peers = int(options.pop("peers", 1))
    is_file = isinstance(topology, str) and topology.endswith(".json")
    listed = read_rounds(str(topology)) if is_file else []
    if dynamic != "static" and (listed or isinstance(topology, np.ndarray)):
        raise ValueError(
            f"topology.dynamic draws from a graph; got {dynamic!r} with a matrix or a list of "
            'graphs; set it to "static", or describe the base graph by its edges'
        )
    if listed:
        return _in_turn([links_of(as_mixing_matrix(one, n, weights)) for one in listed], n)
    if dynamic in FINITE_TIME:
        rounds = FINITE_TIME[dynamic](n, peers) or [{}]  # a single node has nothing to exchange
        return _in_turn([_weighted(each) for each in rounds], n)
    base = build_mixing_matrix(topology, n, weights, seed, options)
    draw = TIME_VARYING[dynamic](links_of(base).edges, n, seed, probability)

    def links(server_round: int) -> Links:
        edges = draw(server_round)
        return Links(edges, WEIGHTS[weights](edges, n))

    return Network(base, links, period_of(dynamic, n))


def _in_turn(turns: Sequence[Links], n: int) -> Network:
    mean = sum((matrix_of(links, n) for links in turns), np.zeros((n, n))) / len(turns)
    return Network(mean, lambda t: turns[(t - 1) % len(turns)], period=len(turns))


def _weighted(edges: Round) -> Links:
    ordered = sorted(edges)
    places = np.array(ordered, dtype=np.int64).reshape(-1, 2)
    return Links(places, np.array([edges[edge] for edge in ordered]))


def describe(network: Network) -> list[str]:
    """Describe a network in a few lines: its size, and how fast it reaches consensus."""
    degrees = degrees_of(network.base)
    lines = [
        f"Nodes: {len(degrees)}, edges: {degrees.sum() // 2}, degree: {span(degrees)}",
        f"lambda2: {lambda2(network.base):.4f}",
    ]
    # SciPy is part of the app; a project that uses only the strategies may not have it.
    if network.is_time_varying and find_spec("scipy"):
        lines.append(f"rho: {format_rho(network.rho)}")
    return lines


def span(degrees: Sequence[int] | NDArray[np.int64]) -> str:
    """Format the smallest and the largest degree; a single number if they are equal.

    Examples
    --------
    >>> span([2, 1, 2]), span([2, 2])
    ('1 to 2', '2')
    """
    return " to ".join(map(str, sorted({min(degrees), max(degrees)})))


def format_rho(rho: Rho) -> str:
    """Format rho, with its standard error if it is an estimate."""
    if rho.standard_error < _ROUNDING:
        return f"{rho.value:.4f}"
    return f"{rho.value:.4f} (standard error {rho.standard_error:.1g}, {rho.rounds} rounds sampled)"

"""The networks that ``flwr-decaf topology`` compares, and the lines that follow their table."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from rich.table import Table

from flwr_decaf.config import Value, parse_config
from flwr_decaf.config.network import network_of
from flwr_decaf.report.topology import period_table, topology_table
from flwr_decaf.topology.graphs import TOPOLOGIES, Matrix
from flwr_decaf.topology.mixing_matrix import lambda2
from flwr_decaf.topology.mixing_steps import describe_steps
from flwr_decaf.topology.network import Network, format_rho
from flwr_decaf.topology.phase_length import phase_length
from flwr_decaf.topology.time_varying import FINITE_TIME


def networks_by_name(
    names: Sequence[str], settings: Mapping[str, Value], n: int
) -> dict[str, Network]:
    """Build the networks that the command line names, on n nodes.

    Parameters
    ----------
    names : sequence of str
        Families of graphs, or JSON files. They are ignored if ``topology.dynamic`` does not use a
        base graph.
    settings : mapping of str to str, int or float
        Common settings of the networks.
    n : int
        Number of nodes.

    Raises
    ------
    ValueError
        If no family is named, a setting is wrong, or there is no such network on n nodes.
    """
    dynamic = str(settings["topology.dynamic"])
    if dynamic in FINITE_TIME:
        return {dynamic: network_of(parse_config(settings), n)}
    if not names:
        raise ValueError(
            f"NAMES must contain a family; got none; choose from {', '.join(TOPOLOGIES)}"
        )
    keys = {name: "topology.file" if name.endswith(".json") else "topology.name" for name in names}
    return {
        name: network_of(parse_config({**settings, key: name}), n) for name, key in keys.items()
    }


def check_options_apply(names: Sequence[str], dynamic: str, given: Collection[str]) -> None:
    """Refuse command-line options that have no effect on the given networks.

    Parameters
    ----------
    names : sequence of str
        Families of graphs, or JSON files.
    dynamic : str
        ``topology.dynamic``.
    given : collection of str
        Names of the parameters that the command line sets, e.g. ``edge_probability``.

    Raises
    ------
    ValueError
        For the first such option; the message says what it applies to.
    """
    finite, drawn = dynamic in FINITE_TIME, dynamic not in {*FINITE_TIME, "static"}
    random = {"erdos-renyi", "random-regular", "small-world"}
    rules = {
        "names": (not finite, "graphs that are not base graphs"),
        "weights": (not finite, "graphs that are not base graphs"),
        "peers": (finite, f"--dynamic {' or '.join(FINITE_TIME)}"),
        "activation_probability": (dynamic == "edge-activation", "--dynamic edge-activation"),
        "edge_probability": (not finite and "erdos-renyi" in names, "erdos-renyi"),
        "degree": (
            not finite and bool({"random-regular", "small-world"} & {*names}),
            "random-regular and small-world",
        ),
        "seed": (drawn or (not finite and bool(random & {*names})), "graphs drawn at random"),
    }
    for parameter, (applies, where) in rules.items():
        if parameter in given and not applies:
            option = "NAMES" if parameter == "names" else f"--{parameter.replace('_', '-')}"
            raise ValueError(
                f"{option} must be omitted here; it applies only to {where}; see flwr-decaf "
                "topology --help"
            )


def compare(
    networks: Mapping[str, Network], dynamic: str, adapter_bytes: float
) -> tuple[Table, dict[str, Matrix]]:
    """Tabulate networks, and choose what to draw.

    Base graphs are compared round by round, since no round has all their edges.

    Returns
    -------
    table : rich.table.Table
        Shape, rate of consensus and traffic of each network, or of each round.
    drawn : dict of str to ndarray
        Title -> W.
    """
    if dynamic in FINITE_TIME:
        network = networks[dynamic]
        rounds = [network.of_round(t) for t in range(1, (network.period or 1) + 1)]
        drawn = {f"round {t}": w for t, w in enumerate(rounds, start=1)}
        return period_table(rounds, adapter_bytes), drawn
    bases = {name: network.base for name, network in networks.items()}
    rates = {name: lambda2(w) for name, w in bases.items()}
    drawn = {f"{name}\nlambda2 = {rates[name]:.3f}": w for name, w in bases.items()}
    varies = any(network.is_time_varying for network in networks.values())
    return topology_table(bases, rates, adapter_bytes, varies), drawn


def time_varying_lines(networks: Mapping[str, Network], dynamic: str) -> list[str]:
    """Describe time-varying networks, one line each; empty if the networks are static."""
    return [
        f"{name if name == dynamic else f'{name}, {dynamic}'}: rho = {format_rho(network.rho)}, "
        f"T of TAD-LoRA = {phase_length(network)}"
        for name, network in networks.items()
        if network.is_time_varying
    ]


def steps_lines(networks: Mapping[str, Network], mixing_steps: str) -> list[str]:
    """Describe the exchanges of a round, one line per network; empty if there is only one."""
    if mixing_steps == "1":
        return []
    return [f"{name}: {describe_steps(one, mixing_steps)}" for name, one in networks.items()]

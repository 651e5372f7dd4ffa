"""The networks that ``flwr-decaf topology`` compares, and what it prints below their table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from flwr_decaf.config import Value, parse_config
from flwr_decaf.config.network import network_of
from flwr_decaf.report.topology import period_lines
from flwr_decaf.topology.graphs import TOPOLOGIES
from flwr_decaf.topology.network import Network, format_rho, phase_length
from flwr_decaf.topology.time_varying import FINITE_TIME


def networks_by_name(
    names: Sequence[str], settings: Mapping[str, Value], n: int
) -> dict[str, Network]:
    """Build the networks that the command line names, on n nodes.

    Parameters
    ----------
    names : sequence of str
        Families of graphs, or JSON files. They are ignored if ``topology.dynamic`` has no base
        graph.
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


def time_varying_lines(networks: Mapping[str, Network], dynamic: str) -> list[str]:
    """Describe time-varying networks, one line for each; empty if the networks are static."""
    lines = [
        f"{name}, {dynamic}: rho = {format_rho(network.rho)}, "
        f"T of TAD-LoRA = {phase_length(network)}"
        for name, network in networks.items()
        if network.is_time_varying
    ]
    return lines + (period_lines(networks[dynamic]) if dynamic in FINITE_TIME else [])

"""Mixing steps: how often the nodes exchange posts and mix them in a round."""

from __future__ import annotations

from flwr_decaf.topology.network import Network

PERIOD = "period"
_SAMPLE = 100  # exchanges of a network that is drawn anew each time


def steps_on(network: Network, mixing_steps: str) -> int:
    """Return the number of exchanges in a round.

    Parameters
    ----------
    network : Network
        Network of the run.
    mixing_steps : str
        A number, or "period" for one period of the network, after which Base-(k+1) graphs reach
        exact consensus. The period of a constant graph is 1.

    Raises
    ------
    ValueError
        If it is "period" and the graphs do not repeat.

    Examples
    --------
    >>> from flwr_decaf.topology.network import build_time_varying_network
    >>> ring, base = (build_time_varying_network("ring", 10, dynamic=d) for d in ("static", "base"))
    >>> steps_on(ring, "period"), steps_on(base, "period"), steps_on(base, "3")
    (1, 6, 3)
    """
    if mixing_steps != PERIOD:
        return int(mixing_steps)
    if network.period is None:
        raise ValueError(
            "mixing-steps must be a number if the graphs are drawn anew each time; got "
            "'period'; set a number, or topology.dynamic to base or one-peer-exponential"
        )
    return network.period


def posts_per_round(network: Network, steps: int) -> float:
    """Return the average number of posts that a node sends in a round of ``steps`` exchanges.

    The average is over the nodes and over a period; if there is none, over the first exchanges.
    """
    exchanges = network.period or _SAMPLE
    edges = sum(len(network.links(t).edges) for t in range(1, exchanges + 1))
    return 2 * edges / len(network.base) / exchanges * steps


def describe_steps(network: Network, mixing_steps: str) -> str:
    """Describe the exchanges of a round in a few words.

    Examples
    --------
    >>> from flwr_decaf.topology.network import build_time_varying_network
    >>> base = build_time_varying_network("ring", 10, topology_options={"peers": 2}, dynamic="base")
    >>> describe_steps(base, "period")
    '4 mixes in a round, 5.0 posts per node'
    """
    steps = steps_on(network, mixing_steps)
    return f"{steps} mixes in a round, {posts_per_round(network, steps):.1f} posts per node"

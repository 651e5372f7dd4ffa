"""Flower's two engines, each of which starts and ends with a run.

A SuperLink that ``flwr run`` starts outlives the run, and keeps the directory and environment of
its first caller. Here, every run gets its own SuperLink on a free port.
"""

from __future__ import annotations

import contextlib
import math
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from flwr_decaf.cli.processes import environment, free_port, running, wait_until_up
from flwr_decaf.data.own_files import NODE_DATA
from flwr_decaf.messages.shared_posts import KEYS_VARIABLE, POSTS_VARIABLE, STORE_VARIABLE


class Engine(NamedTuple):
    """A way to run clients.

    Attributes
    ----------
    start : callable
        Context manager from a folder for Flower's files to the environment in which ``flwr`` finds
        the engine's SuperLink under the name "local"; ``store`` is the nodes' store of posts, and
        ``keys`` the folder of their keys.
    federation : mapping
        Flower's federation-config.
    node_data : str
        Path of each node's own rows, with {} in place of its position; by default "", for nodes
        that share a common data set.
    keys : Path, optional
        Folder with the keys of nodes that encrypt their posts, see ``cli.keys``; by default, they
        get new ones for each run.
    """

    start: Callable[..., contextlib.AbstractContextManager[dict[str, str]]]
    federation: Mapping[str, object]
    node_data: str = ""
    keys: Path | None = None


def simulation(nodes: int, cpus: int = 1, gpus: float = 0.0, node_data: str = "") -> Engine:
    """Run virtual clients as Ray actors.

    Parameters
    ----------
    nodes : int
        Number of clients.
    cpus : int
        CPU cores per client, by default 1.
    gpus : float
        GPUs per client: 1/k for k clients on one GPU, or a whole number. By default 0.
    node_data : str
        See ``Engine.node_data``.

    Raises
    ------
    ValueError
        If ``gpus`` is negative or another fraction, for which Ray would create more actors than it
        can place, and hang.
    """
    whole = gpus.is_integer() or (math.isfinite(gpus) and (1 / gpus).is_integer())
    if gpus < 0 or not whole:
        raise ValueError(
            f"--gpus must be 0, 1/k or a whole number; got {gpus}; use e.g. 0.5 for two clients "
            "per GPU"
        )
    federation: dict[str, object] = {"num-supernodes": nodes, "client-resources-num-cpus": cpus}
    if gpus:
        federation["client-resources-num-gpus"] = gpus

    def start(
        home: Path, store: str = "", keys: str = ""
    ) -> contextlib.AbstractContextManager[dict[str, str]]:
        posts = {} if store or keys else _shared_posts(home)
        return superlink(home, "--simulation", **posts, **_of_the_nodes(node_data, store, keys))

    return Engine(start, federation, node_data)


def _shared_posts(home: Path) -> dict[str, str]:
    if "RAY_ADDRESS" in os.environ:  # a cluster, possibly of several machines
        return {}
    (home / "posts").mkdir()
    return {POSTS_VARIABLE: str(home / "posts")}


def deployment(nodes: int, node_data: str = "") -> Engine:
    """Run clients as SuperNodes: separate processes on this machine.

    Parameters
    ----------
    nodes : int
        Number of clients.
    node_data : str
        See ``Engine.node_data``.
    """

    @contextlib.contextmanager
    def start(home: Path, store: str = "", keys: str = "") -> Iterator[dict[str, str]]:
        own = _of_the_nodes(node_data, store, keys)
        with superlink(home, **own) as env, contextlib.ExitStack() as supernodes:
            for place in range(nodes):
                supernodes.enter_context(supernode(home, env, place, nodes))
            yield env

    return Engine(start, {}, node_data)


def _of_the_nodes(node_data: str, store: str, keys: str) -> dict[str, str]:
    """Return what stands in the node-config of nodes on other machines, as variables."""
    variables = {NODE_DATA: node_data, STORE_VARIABLE: store, KEYS_VARIABLE: keys}
    return {name: value for name, value in variables.items() if value}


@contextlib.contextmanager
def supernode(
    home: Path, env: Mapping[str, str], place: int, nodes: int, more: str = ""
) -> Iterator[subprocess.Popen[bytes]]:
    """Run the SuperNode of one partition during the block.

    Parameters
    ----------
    home : Path
        Folder of the engine; the SuperNode logs to supernode-<place>.log in it.
    env : mapping of str to str
        Environment that the engine yielded.
    place, nodes : int
        The SuperNode's partition, and the number of partitions.
    more : str
        Additional keys and values of its node-config, e.g. "data-path='/data.csv'"; by default
        none.
    """
    command = [
        "flower-supernode", "--insecure", "--superlink", env[_ADDRESS], "--port", str(free_port()),
        "--node-config", f"partition-id={place} num-partitions={nodes} {more}",
    ]  # fmt: skip
    with running(command, env, home / f"supernode-{place}.log") as process:
        yield process


_ADDRESS = "FLWR_DECAF_SUPERLINK"  # variable with the SuperLink's address, for supernode()


@contextlib.contextmanager
def superlink(
    home: Path, *options: str, port: str = "", **variables: str
) -> Iterator[dict[str, str]]:
    """Run a SuperLink during the block.

    Parameters
    ----------
    home : Path
        Folder for the SuperLink's files. If it contains those of an earlier one, its nodes and its
        runs are known again.
    port : str
        Its port on the loopback interface; by default a free one.
    *options, **variables : str
        Additions to its command line and to its environment.

    Yields
    ------
    dict of str to str
        The environment in which ``flwr`` finds it under the name "local".
    """
    port, log = port or str(free_port()), home / "superlink.log"
    env = {**environment(home), **variables, _ADDRESS: f"127.0.0.1:{port}"}
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "local"\n\n[superlink.local]\naddress = "{env[_ADDRESS]}"\n'
        "insecure = true\n",
        encoding="utf8",
    )
    command = [
        "flower-superlink", "--insecure", "--isolation", "subprocess", "--host", "127.0.0.1",
        "--port", port, "--database", str(home / "state.db"), *options,
    ]  # fmt: skip
    with running(command, env, log) as process:
        wait_until_up(process, int(port), log)
        yield env

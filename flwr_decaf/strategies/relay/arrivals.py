"""Arrivals: the posts in replies, read if they are not encrypted, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, TypeVar

from flwr.app import Array, RecordDict

from flwr_decaf.config import Posts
from flwr_decaf.lora import State
from flwr_decaf.messages import records
from flwr_decaf.messages.inspection import read_posts
from flwr_decaf.rules.contract import Ranks
from flwr_decaf.rules.tracking import split
from flwr_decaf.strategies.relay.keyring import Keyring
from flwr_decaf.strategies.relay.replies import copy_of, post_of

Kind = TypeVar("Kind")


class Arrivals(NamedTuple):
    """Posts of an exchange, by sender.

    Attributes
    ----------
    posts : dict of int to Array
        All posts.
    copies : dict of int to Array
        Exact states, if posts are quantized.
    states : dict of int to State
        Usable posts, dequantized; empty if they are encrypted.
    causes : dict of int to str
        Sender of each unusable post or copy -> what is wrong with it.
    """

    posts: dict[int, Array]
    copies: dict[int, Array]
    states: dict[int, State]
    causes: dict[int, str]

    def without(self, causes: Mapping[int, str]) -> Arrivals:
        """Return the arrivals of all other nodes."""

        def kept(by_node: Mapping[int, Kind]) -> dict[int, Kind]:
            return {node: one for node, one in by_node.items() if node not in causes}

        return Arrivals(kept(self.posts), kept(self.copies), kept(self.states), {})


def take_posts(
    contents: Mapping[int, RecordDict],
    likes: Mapping[int, State],
    options: Posts,
    keyring: Keyring | None = None,
    turn: int = 0,
) -> Arrivals:
    """Take posts and copies out of replies, and inspect them.

    Parameters
    ----------
    contents : mapping of int to RecordDict
        Replies, by position.
    likes : mapping of int to State
        States whose names, shapes and dtypes the posts and copies must match, by position.
    options : Posts
        How posts are quantized, and whether their ranks may be lower than those of ``likes``.
    keyring : Keyring, optional
        Keys of the nodes if they encrypt their posts, of which only the labels can be read; by
        default None.
    turn : int
        The exchange, for labels; by default 0.
    """
    posts = {node: post_of(content) for node, content in contents.items()}
    copies = {i: copy_of(content) for i, content in contents.items() if records.COPY in content}
    if keyring:
        return Arrivals(posts, copies, {}, keyring.unusable(posts, copies, turn))
    exchanged = {node: split(like)[0] for node, like in likes.items()}
    ranks: Ranks = "equal" if options.energy == 1.0 else "lower"
    states, causes = _read(posts, exchanged, options.dtype, ranks)
    return Arrivals(posts, copies, states, causes | _read(copies, likes)[1])


def _read(
    posts: Mapping[int, Array],
    likes: Mapping[int, State],
    dtype: str = "fp32",
    ranks: Ranks = "equal",
) -> tuple[dict[int, State], dict[int, str]]:
    states: dict[int, State] = {}
    causes: dict[int, str] = {}
    for node, post in posts.items():
        good, bad = read_posts({node: post}, likes[node], dtype, ranks)
        states |= good
        causes |= bad
    return states, causes

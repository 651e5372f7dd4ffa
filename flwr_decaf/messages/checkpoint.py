"""Checkpoints: the mailbox after a complete round, or as many asynchronous trainings, on disk.

::

    checkpoint/round-00007/
        posts.safetensors   every post that is still needed, once, named by its digest
        mail.json           the last post and the last mail of each node, by digest
        digest              digest of the two files above

A checkpoint is written under a temporary name and renamed, so it is complete or absent. The digest
reveals damage, in which case the previous checkpoint is used.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy
from flwr.app import Array

from flwr_decaf.atomic import replacing
from flwr_decaf.messages.packing import packed
from flwr_decaf.messages.shared_posts import data_of

_log = logging.getLogger("flwr")


class Letter(NamedTuple):
    """The last mail of a node; see ``Mail`` for its fields."""

    weights: tuple[float, ...]
    posts: Mapping[int, Array]
    mixed: str = "AB"
    rounded: int = -1
    late: tuple[int, ...] = ()


class NodeProgress(NamedTuple):
    """How far a node of asynchronous rounds has come.

    Attributes
    ----------
    server_round : int
        Round of its last post.
    examples : float
        Number of examples that it reported with this post, if mixes are weighted by it; else 0.
    waiting : tuple of int
        Neighbours for which this post has not been exchanged yet.
    late : mapping of int to Array
        Posts that the node will mix next, by sender: see ``topology.asynchronous``.
    """

    server_round: int
    examples: float
    waiting: tuple[int, ...]
    late: Mapping[int, Array]


@dataclass(frozen=True)
class Checkpoint:
    """Everything that determines a run after a round.

    Attributes
    ----------
    server_round : int
        The last complete round; in asynchronous rounds, the mean round of the nodes, rounded down.
    posts : mapping of int to Array
        Each node's last post, packed.
    mail : mapping of int to Letter
        Mail that was last sent to each node, or will be sent to it next; by default none.
    pending : frozenset of int
        Nodes that have not received their mail yet; by default none.
    copies : mapping of int to Array
        Exact states of nodes whose posts are quantized, packed; by default none.
    experiment : str
        Id of the run if posts are encrypted, see ``encryption.Header``; by default "".
    members : mapping of int to int
        With open membership, the nodes that are there -> the number of successive rounds that each
        has missed; by default empty.
    progress : mapping of int to NodeProgress
        In asynchronous rounds, how far each node has come; by default empty: all nodes have
        completed the same round.
    """

    server_round: int
    posts: Mapping[int, Array]
    mail: Mapping[int, Letter] = field(default_factory=dict)
    pending: frozenset[int] = frozenset()
    copies: Mapping[int, Array] = field(default_factory=dict)
    experiment: str = ""
    members: Mapping[int, int] = field(default_factory=dict)
    progress: Mapping[int, NodeProgress] = field(default_factory=dict)


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint to a folder of checkpoints, and keep the previous one as a fallback."""
    content, blobs = _described(checkpoint)
    tensors = {key: np.frombuffer(data, dtype=np.uint8) for key, data in blobs.items()}
    target = folder / f"round-{checkpoint.server_round:05d}"
    with replacing(target) as filled:
        filled.mkdir()
        safetensors.numpy.save_file(tensors, filled / "posts.safetensors")
        (filled / "mail.json").write_text(json.dumps(content), encoding="utf8")
        (filled / "digest").write_text(_digest_of(filled), encoding="utf8")
        shutil.rmtree(target, ignore_errors=True)  # a damaged one, from before a run was resumed
    before = sorted(place for place in folder.glob("round-*") if place < target)[-1:]
    for other in folder.glob("round-*"):  # older ones, and damaged ones of later rounds
        if other not in (target, *before):
            shutil.rmtree(other)


def _described(checkpoint: Checkpoint) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Return the content of mail.json, and each post once, by its digest."""
    blobs: dict[str, bytes] = {}
    known: dict[int, str] = {}  # a post is in the mail of each neighbour, but is read only once

    def name(post: Array) -> str:
        if id(post) not in known:
            data = data_of(post)
            known[id(post)] = _digest(data)
            blobs[known[id(post)]] = data
        return known[id(post)]

    content = {
        "round": checkpoint.server_round,
        "experiment": checkpoint.experiment,
        "members": dict(checkpoint.members),
        "progress": {
            node: {**done._asdict(), "late": {j: name(post) for j, post in done.late.items()}}
            for node, done in checkpoint.progress.items()
        },
        "posts": {node: name(post) for node, post in checkpoint.posts.items()},
        "copies": {node: name(copy) for node, copy in checkpoint.copies.items()},
        "pending": sorted(checkpoint.pending),
        "mail": {
            node: {**letter._asdict(), "posts": {j: name(post) for j, post in letter.posts.items()}}
            for node, letter in checkpoint.mail.items()
        },
    }
    return content, blobs


def load_checkpoint(folder: Path) -> Checkpoint | None:
    """Read the last undamaged checkpoint, with a warning for each damaged one.

    Returns
    -------
    Checkpoint or None
        None if there is none.
    """
    for place in sorted(folder.glob("round-*"), reverse=True):
        try:
            return _read(place)
        except (OSError, ValueError, KeyError, safetensors.SafetensorError) as error:
            _log.warning("The checkpoint %s is damaged (%s); trying the previous one", place, error)
    return None


def _read(place: Path) -> Checkpoint:
    if (place / "digest").read_text("utf8") != _digest_of(place):
        raise ValueError("its digest does not match")
    content: dict[str, Any] = json.loads((place / "mail.json").read_text("utf8"))
    tensors = safetensors.numpy.load_file(place / "posts.safetensors")

    def posts(names: Mapping[str, str]) -> dict[int, Array]:
        return {int(node): packed(tensors[name].tobytes()) for node, name in names.items()}

    def read(letter: dict[str, Any]) -> Letter:
        lists = {key: tuple(letter[key]) for key in ("weights", "late")}
        return Letter(**{**letter, **lists, "posts": posts(letter["posts"])})

    def advanced(done: dict[str, Any]) -> NodeProgress:
        parts = {"waiting": tuple(done["waiting"]), "late": posts(done["late"])}
        return NodeProgress(**{**done, **parts})

    mail = {int(node): read(letter) for node, letter in content["mail"].items()}
    return Checkpoint(
        int(content["round"]),
        posts(content["posts"]),
        mail,
        frozenset(content["pending"]),
        posts(content["copies"]),
        content.get("experiment", ""),
        {int(node): rounds for node, rounds in content.get("members", {}).items()},
        {int(node): advanced(done) for node, done in content.get("progress", {}).items()},
    )


def _digest_of(place: Path) -> str:
    return _digest(b"".join((place / f).read_bytes() for f in ("mail.json", "posts.safetensors")))


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()

"""Checks of how a strategy's posts are compressed and encrypted."""

from __future__ import annotations

from flwr_decaf.config import Attack, Posts
from flwr_decaf.messages.checkpoint import Checkpoint
from flwr_decaf.rules import FACTORIZING


def check_posts(posts: Posts, attack: Attack, rule: str) -> None:
    """Refuse options of posts that a strategy cannot combine.

    Parameters
    ----------
    posts, attack
        As in ``DecentralizedStrategy``.
    rule : str
        Mixing rule of the method.

    Raises
    ------
    ValueError
        If posts are encrypted and the relay is to forge some of them, or if they are to be
        truncated and the rule does not mix products.
    """
    _check_encryption(posts, attack)
    if posts.energy < 1.0 and rule not in FACTORIZING:
        raise ValueError(
            "posts.energy must be 1 where factors are averaged, as only products can be mixed "
            f"across ranks; got {posts.energy}; omit it, or use decaf"
        )


def _check_encryption(posts: Posts, attack: Attack) -> None:
    """Refuse encryption with an attack that the relay simulates.

    Raises
    ------
    ValueError
        If both are set.
    """
    if posts.encrypted and attack.sign_flipping:
        raise ValueError(
            "attack.sign-flipping must be 0 with posts.encryption, since the relay cannot change "
            f"encrypted posts; got {attack.sign_flipping}; omit one of them"
        )


def check_scored(posts: Posts, scores_average: bool) -> None:
    """Refuse to score the average of models that the relay cannot read.

    Raises
    ------
    ValueError
        If both are set.
    """
    if posts.encrypted and scores_average:
        raise ValueError(
            "evaluate-average (evaluate_fn) must not be set with posts.encryption, since the relay "
            f"cannot average encrypted posts; got {posts.encryption}; omit one of them"
        )


def check_resumed(checkpoint: Checkpoint | None, posts: Posts) -> None:
    """Refuse to resume with other encryption than that of the checkpoint.

    Raises
    ------
    ValueError
        If the checkpoint is encrypted and the run is not, or vice versa.
    """
    if checkpoint and bool(checkpoint.experiment) != posts.encrypted:
        was = "x25519" if checkpoint.experiment else "none"
        raise ValueError(
            f"posts.encryption must be that of the checkpoint, {was}; got {posts.encryption}; "
            "change it, or start a new run"
        )

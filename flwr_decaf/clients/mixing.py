"""Mixing at a node: usable posts, the row of W without the refused ones, and the rule."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch

from flwr_decaf.clients.alignment import Alignment
from flwr_decaf.distances import interference
from flwr_decaf.lora import State, select
from flwr_decaf.messages.inspection import outliers, read_posts
from flwr_decaf.messages.mail import Mail
from flwr_decaf.rules import ALIGNED, NEEDED, ROBUST, RULES

Prepared = Callable[[], Alignment | None]


class Stopwatch:
    """Measure the seconds spent on each activity.

    Attributes
    ----------
    seconds : dict of str to float
        Activity -> total seconds.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def measuring(self, activity: str) -> Iterator[None]:
        """Add the duration of a block to an activity."""
        started = time.perf_counter()
        yield
        spent = time.perf_counter() - started
        self.seconds[activity] = self.seconds.get(activity, 0.0) + spent


def mix(
    own: State, mail: Mail, prepare: Prepared = lambda: None
) -> tuple[State, dict[str, float], dict[int, str]]:
    """Apply the mail's rule to the node's own state and its neighbours' posts.

    Tensors that were not exchanged are kept. A node without neighbours in this round keeps its own
    state, bit for bit. Posts that cannot be used are left out, and their weight is added to the
    node's own; ``flwr_decaf.messages.inspection`` explains why W stays doubly stochastic. It does
    not under a robust rule, or where a node has too few neighbours for one.

    Parameters
    ----------
    own : State
        The node's own state.
    mail : Mail
        Mail with the posts, their weights and the rule.
    prepare : callable
        Function that creates the alignment, called only if the rule needs one; by default it
        returns None, which mixes states as they are.

    Returns
    -------
    state : State
        The node's new state.
    metrics : dict of str to float
        Seconds of mixing and of matching, the numbers of neighbours that were mixed and refused,
        and the interference (Frobenius norm) if the mail requests it.
    refused : dict of int to str
        Senders whose posts were not used -> the cause.
    """
    watch = Stopwatch()
    with watch.measuring("mixing-seconds"):
        posts, refused = usable_posts(own, mail)
    metrics = _no_metrics(mail) | {"mixing-refused": float(len(refused))}
    if not posts or len(posts) < NEEDED[mail.robust](mail.byzantine):
        return own, metrics, refused
    weights = row_without_refused(mail, posts)
    held = _apply_rule(own, list(posts.values()), weights, mail, prepare, watch)
    metrics |= watch.seconds | {"mixing-neighbours": float(len(posts))}
    if mail.measured and mail.robust == "none":  # a robust rule discards states on purpose
        whole = [own, *(own | post for post in posts.values())]
        metrics["mixing-interference"] = interference(whole, weights, held)
    return held, metrics, refused


def usable_posts(own: State, mail: Mail) -> tuple[dict[int, State], dict[int, str]]:
    """Unpack the posts, and refuse those that are damaged or outliers.

    Returns
    -------
    posts : dict of int to State
        Usable posts, by sender.
    refused : dict of int to str
        Sender -> why its post cannot be used.
    """
    posts, refused = read_posts(mail.posts, like=select(own, mail.exchanged))
    with _one_thread():  # both ends of an edge must compute the same norms, bit for bit
        refused |= outliers(own, {sender: own | post for sender, post in posts.items()})
    return {sender: post for sender, post in posts.items() if sender not in refused}, refused


def row_without_refused(mail: Mail, posts: Mapping[int, State]) -> list[float]:
    """Return the node's row of W on itself and ``posts``; the node takes over what is missing.

    Examples
    --------
    >>> mail = Mail("average", "AB", "AB", weights=(0.5, 0.25, 0.25), posts={1: None, 3: None})
    >>> row_without_refused(mail, {3: {}})
    [0.75, 0.25]
    """
    weight_of = dict(zip(mail.posts, mail.weights[1:], strict=True))
    weights = [weight_of[sender] for sender in posts]
    complete = len(posts) == len(mail.posts)
    return [mail.weights[0] if complete else max(1.0 - sum(weights), 0.0), *weights]


def _apply_rule(
    own: State,
    posts: Sequence[State],
    weights: Sequence[float],
    mail: Mail,
    prepare: Prepared,
    watch: Stopwatch,
) -> State:
    # A factor that was not exchanged is not mixed, whatever the mail says.
    mixed = "".join(factor for factor in mail.mixed if factor in mail.exchanged)
    states = [select(state, mixed, not mail.local_head) for state in (own, *posts)]
    rule = ROBUST[mail.robust](RULES[mail.rule], mail.byzantine)
    alignment = None
    if mail.rule in ALIGNED:
        with watch.measuring("matching-seconds"):
            alignment = prepare()
            states = alignment.align(states) if alignment else states
    with watch.measuring("mixing-seconds"), _one_thread():
        held = own | rule(states, weights)
    if alignment:
        with watch.measuring("matching-seconds"):
            held = alignment.settle(held)
    return held


def _no_metrics(mail: Mail) -> dict[str, float]:
    """Return the metrics of a node that mixes nothing; all nodes report the same keys."""
    keys = ["mixing-seconds", "mixing-neighbours"]
    keys += ["mixing-interference"] * mail.measured
    keys += ["matching-seconds"] * (mail.rule in ALIGNED)
    return dict.fromkeys(keys, 0.0)


@contextmanager
def _one_thread() -> Iterator[None]:
    # A QR decomposition on two threads differs in its last bits from one on a single thread, and
    # the number that the user's code has set depends on the engine's processes.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)

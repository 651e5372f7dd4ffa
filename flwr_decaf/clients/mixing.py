"""Mixing at a node: usable posts, the row of W without refused posts, and the rule."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from statistics import fmean

import torch

from flwr_decaf.clients.alignment import Alignment
from flwr_decaf.clients.compression import as_posted, one_thread
from flwr_decaf.distances import distances_to_first, interference
from flwr_decaf.lora import State, compute_dtype, pairs_present, select
from flwr_decaf.messages.inspection import outliers, read_posts
from flwr_decaf.messages.mail import PREVIOUS, Mail
from flwr_decaf.rules import ALIGNED, FACTORIZING, NEEDED, ROBUST, RULES
from flwr_decaf.rules.contract import Ranks
from flwr_decaf.rules.energy import keep_residual
from flwr_decaf.rules.tracking import model_of

Prepared = Callable[[], Alignment | None]
_ROUNDING = 1e-9  # 1 - sum of weights may leave 1e-16 where 0 is meant


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

    Posts may be quantized. Their rounding Q does not change averages over the nodes: where tensors
    are averaged, the node mixes its own post as its neighbours see it, and adds its own residual,

        x~_i = sum_j w_ij Q(x_j) + (x_i - Q(x_i)) = x_i + sum_j w_ij (Q(x_j) - Q(x_i)).

    With weighted mixing, whose matrix is not doubly stochastic, the weighted average is preserved
    only up to the rounding error.

    For DeCAF's factors, and under robust rules, the node uses its own state without rounding,
    because a residual of factors has no meaning in the basis that the factorization chooses. (With
    random factors of rank 4 at ten nodes, the error of one mix in int8 is 0.8 % in this way, 1.0 %
    with the node's own post, and 1.5 % with ``P_i + sum_j w_ij (Q_j - Q_i)`` of the products, which
    preserves their mean.)

    If posts are truncated to a share of their energy, a node mixes the leading components of its
    own products, as its neighbours do, and keeps the others in full until they lead. See
    ``rules.energy.keep_residual``; robust rules use the node's own state as it is.

    Tensors that were not exchanged are kept. A node without neighbours in this round keeps its own
    state, bit for bit. Posts that cannot be used are omitted, and their weight is added to the
    node's own; ``flwr_decaf.messages.inspection`` explains why W stays doubly stochastic. It does
    not under a robust rule, or if a node has too few neighbours for such a rule.

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
        the interference (Frobenius norm) if the mail requests it, and, if posts are encrypted, the
        mean distance to the neighbours' posts.
    refused : dict of int to str
        Senders whose posts were not used -> the cause.
    """
    watch = Stopwatch()
    with watch.measuring("mixing-seconds"):
        seen = as_posted(own, mail)
        posts, refused = usable_posts(seen, mail)
    metrics = _no_metrics(mail) | {"mixing-refused": float(len(refused))}
    if not posts or len(posts) < NEEDED[mail.robust](mail.byzantine):
        return own, metrics, refused
    weights = row_without_refused(mail, posts)
    centre = _centre(own, seen, mail)
    with watch.measuring("mixing-seconds"):
        whole = _with_unposted(centre, weights[0], mail)
    mixed, alignment = _apply_rule(whole, list(posts.values()), weights, mail, prepare, watch)
    with watch.measuring("mixing-seconds"):
        held = own | _with_residuals(mixed, own, centre)
    if alignment:
        with watch.measuring("matching-seconds"):
            held = alignment.settle(held)
    metrics |= watch.seconds | {"mixing-neighbours": float(len(posts.keys() - {PREVIOUS}))}
    if mail.measured:
        others = [model_of(centre | post) for post in posts.values()]
        if mail.sealed:  # otherwise the relay measures the distance to the mean
            distances = distances_to_first([model_of(centre), *others])
            metrics["distance-to-neighbours"] = fmean(distances[1:])
        if mail.robust == "none":  # a robust rule discards states on purpose
            states = [model_of(whole), *others]
            error = interference(states, weights, model_of(centre | mixed))
            metrics["mixing-interference"] = error
    return held, metrics, refused


def usable_posts(own: State, mail: Mail) -> tuple[dict[int, State], dict[int, str]]:
    """Unpack the posts, and refuse those that are damaged or outliers.

    A late post is compared with the node's previous one, as its sender does.

    Parameters
    ----------
    own : State
        The node's own state as its neighbours see it, so that both ends reach the same decision.
    mail : Mail
        Mail with the posts.

    Returns
    -------
    posts : dict of int to State
        Usable posts, by sender; with late ones, also the node's own ``PREVIOUS`` one.
    refused : dict of int to str
        Sender -> why its post cannot be used.
    """
    mixable = select(own, mail.exchanged)
    # Neighbours' ranks may differ where products are mixed; the relay checks each by its sender's.
    ranks: Ranks = "any" if mail.rule in FACTORIZING else "equal"
    posts, refused = read_posts(mail.posts, mixable, mail.dtype, ranks)
    previous = posts.pop(PREVIOUS, {})
    if PREVIOUS in refused:
        refused |= dict.fromkeys(mail.late, f"own previous post: {refused.pop(PREVIOUS)}")
    with one_thread():  # both ends of an edge must compute the same norms, bit for bit
        for reference, are_late in ((own, False), (own | previous, True)):
            compared = {j: own | x for j, x in posts.items() if (j in mail.late) == are_late}
            refused |= outliers(reference, compared)
    usable = {sender: post for sender, post in posts.items() if sender not in refused}
    needed = usable.keys() & set(mail.late)
    return usable | ({PREVIOUS: previous} if needed else {}), refused


def row_without_refused(mail: Mail, posts: Mapping[int, State]) -> list[float]:
    """Return the node's row of W on itself and ``posts``; its own weight absorbs what is missing.

    That of its previous post absorbs what is missing of late posts.

    Examples
    --------
    >>> mail = Mail("average", "AB", "AB", weights=(0.5, 0.25, 0.25), posts={1: None, 3: None})
    >>> row_without_refused(mail, {3: {}})
    [0.75, 0.25]
    """
    weight_of = dict(zip(mail.posts, mail.weights[1:], strict=True))
    if len(posts) < len(mail.posts):
        late = [weight_of[sender] for sender in posts if sender in mail.late]
        now = [weight_of[sender] for sender in posts if sender not in (*mail.late, PREVIOUS)]
        weight_of[PREVIOUS] = -sum(late)
        return [max(1.0 - sum(now), 0.0), *(weight_of[sender] for sender in posts)]
    return [mail.weights[0], *(weight_of[sender] for sender in posts)]


def _centre(own: State, seen: State, mail: Mail) -> State:
    """Return the node's own state for the rule: exact where the rule is not linear in a tensor."""
    if mail.robust != "none":
        return own
    factors = pairs_present(own) if mail.rule in FACTORIZING else []
    return seen | {name: own[name] for pair in factors for name in pair}


def _with_unposted(centre: State, weight: float, mail: Mail) -> State:
    """Let the components that the node has not posted count in full, if its weight permits."""
    if mail.energy == 1.0 or mail.rounded < 0 or mail.robust != "none" or weight < _ROUNDING:
        return centre
    with one_thread():
        return keep_residual(centre, mail.energy, weight)


def _with_residuals(mixed: State, own: State, centre: State) -> State:
    """Add the part of the node's own state that the rule did not see: ``own - centre``."""

    def corrected(name: str, x: torch.Tensor) -> torch.Tensor:
        if own[name] is centre[name]:
            return x
        precise = compute_dtype(x.dtype)
        return (x.to(precise) + own[name].to(precise) - centre[name].to(precise)).to(x.dtype)

    return {name: corrected(name, x) for name, x in mixed.items()}


def _apply_rule(
    own: State,
    posts: Sequence[State],
    weights: Sequence[float],
    mail: Mail,
    prepare: Prepared,
    watch: Stopwatch,
) -> tuple[State, Alignment | None]:
    # A factor that was not exchanged is not mixed, whatever the mail says.
    mixed = "".join(factor for factor in mail.mixed if factor in mail.exchanged)
    states = [select(state, mixed, not mail.local_head) for state in (own, *posts)]
    rule = ROBUST[mail.robust](RULES[mail.rule], mail.byzantine)
    alignment = None
    if mail.rule in ALIGNED:
        with watch.measuring("matching-seconds"):
            alignment = prepare()
            states = alignment.align(states) if alignment else states
    with watch.measuring("mixing-seconds"), one_thread():
        return rule(states, weights), alignment


def _no_metrics(mail: Mail) -> dict[str, float]:
    """Return the metrics of a node that mixes nothing, so that all nodes report the same keys."""
    keys = ["mixing-seconds", "mixing-neighbours"]
    keys += ["mixing-interference"] * mail.measured
    keys += ["distance-to-neighbours"] * (mail.measured and mail.sealed)
    keys += ["matching-seconds"] * (mail.rule in ALIGNED)
    return dict.fromkeys(keys, 0.0)

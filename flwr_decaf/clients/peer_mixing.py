"""The mod that makes a ClientApp a peer: it mixes before the user's function and posts after.

    app = ClientApp(mods=[peer_mixing])

The user's train and evaluate functions stay ordinary Flower functions. They find the node's mixed
model where they always found the global one, and what they return becomes the node's own model.
A message without mail passes through untouched, so FedAvg runs through the same ClientApp.

Where whole models have to be aligned before they are averaged (DIMAT), the client hands in how:

    app = ClientApp(mods=[peer_mixing_with(matching)])
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import cast

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict

from flwr_decaf.clients.alignment import Alignment, Prepare, check_aligns
from flwr_decaf.distances import interference
from flwr_decaf.lora import State, factor_of, select
from flwr_decaf.messages import records
from flwr_decaf.messages.inspection import outliers, read_posts
from flwr_decaf.messages.mail import Mail, take_mail
from flwr_decaf.messages.packing import (
    pack_record,
    pack_shared,
    packed_array,
    record_of,
    unpack_record,
)
from flwr_decaf.messages.shared_posts import is_gone
from flwr_decaf.rules import ALIGNED, NEEDED, ROBUST, RULES
from flwr_decaf.rules.contract import check_alike

Answer = Callable[[Message, Context], Message]  # Flower names these types where old ones have none
Mod = Callable[[Message, Context, Answer], Message]

_LEGACY = {"fitins.parameters", "evaluateins.parameters"}  # records that a client_fn needs


def peer_mixing(msg: Message, context: Context, call_next: Answer) -> Message:
    """Mix the mail of a message into the node's own model, then let the user's function run.

    Parameters
    ----------
    msg : Message
        From a strategy of this package, or any other (then it is passed on as it is).
    context : Context
        ``context.state`` keeps the node's own model between messages. It changes only when the
        call succeeds, so that mail which was not mixed can be delivered again. Beside the model
        stands its version: where that is not the one that the relay expects, because an earlier
        call ended after its timeout, the node asks for its last post instead of mixing.
    call_next : callable
        The next mod, or the user's function.

    Returns
    -------
    Message
        The user's reply. After training its arrays are replaced by the node's post, and its
        metrics tell of the mixing: ``mixing-seconds``, ``mixing-neighbours``, ``mixing-refused``
        and, unless the strategy evaluates nothing, ``mixing-interference`` (Frobenius norm).

    Raises
    ------
    ValueError
        If the user's train function returns other arrays than it was given, or moves a factor
        that is frozen in this round; or the strategy's rule needs ``peer_mixing_with``.
    """
    return _mix_and_call(msg, context, call_next, prepare=None)


def peer_mixing_with(prepare: Prepare) -> Mod:
    """Make a ``peer_mixing`` that can align whole models: DIMAT's.

    Parameters
    ----------
    prepare : callable
        From the message, without its mail, and the context to an ``Alignment``, e.g.
        ``matching.Matching`` with a model and the node's own data. Called only when there is
        something to align; other strategies run as with ``peer_mixing``.

    Returns
    -------
    Mod
        As ``peer_mixing``; the metrics also tell ``matching-seconds``.
    """

    def mod(msg: Message, context: Context, call_next: Answer) -> Message:
        return _mix_and_call(msg, context, call_next, prepare)

    return mod


def _mix_and_call(
    msg: Message, context: Context, call_next: Answer, prepare: Prepare | None
) -> Message:
    call = cast(ConfigRecord, msg.content.get(records.CALL, ConfigRecord()))
    if call.get("ask") == records.ROLL_CALL:
        return Message(RecordDict({records.CALL: _presence(context)}), reply_to=msg)
    mail = take_mail(msg.content)
    if mail is None:
        return call_next(msg, context)
    check_aligns(mail.rule, prepare)
    own = _own_state(msg.content, context, mail)
    if own is None:  # the relay sends the node's last post with the next message
        return Message(RecordDict({records.CALL: ConfigRecord({"lost": True})}), reply_to=msg)
    held, metrics, refused = mix(own, mail, lambda: prepare(msg, context) if prepare else None)
    # A large model's user needs the memory that its neighbours' took.
    own, mail = {}, replace(mail, posts={})
    if call.get("ask") == records.COLLECT:
        own_record = pack_record(held)
        _keep(context, own_record, mail)
        content = RecordDict({records.POST: own_record, **_refusals(refused, mail)})
        return Message(content, reply_to=msg)
    msg.content[mail.arrays_key] = ArrayRecord(held)
    reply = _call(call_next, msg, context)
    if reply.has_error():
        return reply
    # Kept only now: SuperNodes store the state of a call that fails, too, and get its mail again.
    if reply.content.array_records:
        _keep_and_post(reply.content, context, held, mail)
    else:
        _keep(context, pack_record(held), mail)
    _report(reply.content, dict.fromkeys(metrics, 0.0) if mail.repeated else metrics)
    reply.content.update(_refusals(refused, mail))
    return reply


def _call(call_next: Answer, msg: Message, context: Context) -> Message:
    try:
        return call_next(msg, context)
    except KeyError as error:
        if _LEGACY & set(map(str, error.args)):
            raise TypeError(
                "a decentralized strategy needs a ClientApp of Flower's Message API; this one has "
                "a client_fn (NumPyClient or Client); register functions with @app.train() and "
                "@app.evaluate() instead"
            ) from error
        raise


def mix(
    own: State, mail: Mail, prepare: Callable[[], Alignment | None] = lambda: None
) -> tuple[State, dict[str, float], dict[int, str]]:
    """Apply the mail's rule to the node's own state and its neighbours' posts.

    States are aligned first, where the rule asks for it, by what ``prepare`` makes. Tensors that
    did not travel stay as they are. A node without neighbours in this round keeps its own state to
    the bit. Posts that cannot be used are left out, and their weight goes to the node's own; see
    ``flwr_decaf.inspection`` for why W stays doubly stochastic. It does not under a robust rule,
    and where a node has too few neighbours for one.

    Returns
    -------
    state : State
        What the node now holds.
    metrics : dict of str to float
        Seconds of mixing and of matching, the number of neighbours mixed and refused, and the
        interference if the mail asks for it.
    refused : dict of int to str
        Senders of posts that were not used, and why.
    """
    started = time.perf_counter()
    posts, refused = read_posts(mail.posts, like=select(own, mail.exchanged))
    with _one_thread():  # both ends of an edge must find the same norms, to the bit
        refused |= outliers(own, {sender: own | post for sender, post in posts.items()})
    posts = {sender: post for sender, post in posts.items() if sender not in refused}
    metrics = {"mixing-seconds": 0.0, "mixing-neighbours": float(len(posts))}
    metrics["mixing-refused"] = float(len(refused))
    if mail.measured:
        metrics["mixing-interference"] = 0.0
    if mail.rule in ALIGNED:
        metrics["matching-seconds"] = 0.0
    if not posts or len(posts) < NEEDED[mail.robust](mail.byzantine):
        metrics["mixing-neighbours"] = 0.0
        return own, metrics, refused
    weight_of = dict(zip(mail.posts, mail.weights[1:], strict=True))
    weights = [weight_of[sender] for sender in posts]
    weights = [max(1.0 - sum(weights), 0.0) if refused else mail.weights[0], *weights]
    # A factor that did not travel is not mixed, whatever the mail says.
    mixed = "".join(factor for factor in mail.mixed if factor in mail.exchanged)
    dense = not mail.local_head
    states = [select(state, mixed, dense) for state in (own, *posts.values())]
    rule = ROBUST[mail.robust](RULES[mail.rule], mail.byzantine)
    matching = time.perf_counter()
    alignment = prepare() if mail.rule in ALIGNED else None
    if alignment:
        states = alignment.align(states)
    mixing = time.perf_counter()
    with _one_thread():
        held = own | rule(states, weights)
    settling = time.perf_counter()
    if alignment:
        held = alignment.settle(held)
        metrics["matching-seconds"] = time.perf_counter() - settling + mixing - matching
    metrics["mixing-seconds"] = settling - mixing + matching - started
    if mail.measured and mail.robust == "none":  # else what is lost is meant to be
        whole = [own, *(own | post for post in posts.values())]
        metrics["mixing-interference"] = interference(whole, weights, held)
    return held, metrics, refused


@contextmanager
def _one_thread() -> Iterator[None]:
    # A QR on two threads gives other bits than on one, and what the user's code has set by now
    # depends on the engine: one process for all messages, or one for each.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _presence(context: Context) -> ConfigRecord:
    known = ("partition-id", "num-partitions")
    return ConfigRecord(
        {key: cast(int, value) for key, value in context.node_config.items() if key in known}
    )


def _own_state(content: RecordDict, context: Context, mail: Mail) -> State | None:
    # Arrays beside mail set the node's own anew: at the start of a run, and after a loss.
    if mail.arrays_key in content:
        return dict(cast(ArrayRecord, content[mail.arrays_key]).to_torch_state_dict())
    if records.OWN not in context.state:  # a SuperNode that restarted
        return None
    version = cast(ConfigRecord, context.state.get(records.VERSION, ConfigRecord()))
    if version.get("version", "") != mail.base:  # an earlier call ended after its timeout
        return None
    own = cast(ArrayRecord, context.state[records.OWN])
    return None if is_gone(packed_array(own)) else unpack_record(own)


def _keep(context: Context, own: ArrayRecord, mail: Mail) -> None:
    context.state[records.OWN] = own
    context.state[records.VERSION] = ConfigRecord({"version": mail.version})


def _keep_and_post(content: RecordDict, context: Context, held: State, mail: Mail) -> None:
    """Keep what came out of training as the node's own; replace it in the reply by the post."""
    if len(content.array_records) != 1:
        raise ValueError(
            "a train function must return exactly one ArrayRecord; got "
            f"{sorted(content.array_records)}; return the trained arrays alone"
        )
    arrays = cast(ArrayRecord, content.pop(next(iter(content.array_records))))
    returned = arrays.to_torch_state_dict()
    check_alike(held, returned, who=records.TRAINED)
    trained = {name: returned[name] for name in held}
    _check_frozen(held, trained, mail.trained)
    posted = select(trained, mail.exchanged)
    post = record_of(pack_shared(posted))
    content[records.POST] = post
    # One object where all of it is exchanged: packed once, and pickled once with the reply.
    whole = posted.keys() == trained.keys()
    _keep(context, post if whole else pack_record(trained), mail)


def _check_frozen(held: State, trained: State, factors: str) -> None:
    for name in held:
        if (factor_of(name) or factors) not in factors and not torch.equal(
            held[name], trained[name]
        ):
            raise ValueError(
                f"{name} is frozen in this round, but the train function changed it; pass the "
                'message\'s config["trainable-factors"] to flwr_decaf.clients.freeze_factors'
            )


def _refusals(refused: dict[int, str], mail: Mail) -> dict[str, ConfigRecord]:
    if not refused or mail.repeated:
        return {}
    record = ConfigRecord({"senders": list(refused), "causes": list(refused.values())})
    return {records.REFUSED: record}


def _report(content: RecordDict, metrics: dict[str, float]) -> None:
    record = next(iter(content.metric_records.values()), None)
    if record is None:
        record = content["metrics"] = MetricRecord()
    for key, value in metrics.items():
        record[key] = value

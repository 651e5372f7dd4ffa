"""The mod that makes a ClientApp a peer: it mixes before the user's function, and posts after it.

    app = ClientApp(mods=[peer_mixing])

The user's train and evaluate functions remain ordinary Flower functions. They receive the node's
mixed model in place of the global one, and the arrays that a train function returns become the
node's own model. A message without mail is passed on unchanged, so FedAvg runs with the same
ClientApp.

If whole models must be aligned before they are averaged (DIMAT), the client provides the alignment:

    app = ClientApp(mods=[peer_mixing_with(matching)])
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import cast

import torch
from flwr.app import (
    ArrayRecord,
    ConfigRecord,
    Context,
    Message,
    MessageType,
    MetricRecord,
    RecordDict,
)

from flwr_decaf.clients.alignment import Prepare, check_aligns
from flwr_decaf.clients.mixing import mix
from flwr_decaf.clients.own_adapter import save_own_adapter
from flwr_decaf.clients.own_state import keep, own_state, post
from flwr_decaf.clients.own_store import store_of
from flwr_decaf.clients.presence import presence_of
from flwr_decaf.clients.relaying import last_received
from flwr_decaf.clients.sealed_posts import seal_of
from flwr_decaf.lora import State, factor_of
from flwr_decaf.messages import records
from flwr_decaf.messages.mail import Mail, read_mail, take_mail
from flwr_decaf.messages.packing import pack_record
from flwr_decaf.messages.tickets import deposit, redeem
from flwr_decaf.rules.contract import check_alike
from flwr_decaf.rules.tracking import model_of, split, track

Answer = Callable[[Message, Context], Message]  # older versions of Flower do not export this type
Mod = Callable[[Message, Context, Answer], Message]

_LEGACY = {"fitins.parameters", "evaluateins.parameters"}  # records that a client_fn requires


def peer_mixing(msg: Message, context: Context, call_next: Answer) -> Message:
    """Mix the mail of a message into the node's own model, then call the user's function.

    Parameters
    ----------
    msg : Message
        Message of a strategy of this package; one of any other strategy is passed on unchanged.
    context : Context
        ``context.state`` keeps the node's own model and its version between messages. They change
        only if the call succeeds, so that mail that was not mixed can be sent again. If the version
        is not the one that the relay expects, because an earlier call ended after its timeout, the
        node requests its last post instead of mixing.
    call_next : callable
        The next mod, or the user's function.

    Returns
    -------
    Message
        The user's reply. After training, the node's post replaces its arrays. Its metrics also
        include ``mixing-seconds``, ``mixing-neighbours``, ``mixing-refused`` and, unless the
        strategy never evaluates, ``mixing-interference`` (Frobenius norm).

    Raises
    ------
    ValueError
        If the names, shapes or dtypes of the arrays that the user's train function returns differ
        from those it received; if it changes a factor that is frozen in this round; or if the
        strategy's rule requires ``peer_mixing_with``.
    """
    return _mix_and_call(msg, context, call_next, prepare=None)


def peer_mixing_with(prepare: Prepare) -> Mod:
    """Create a ``peer_mixing`` that can also align whole models, for DIMAT.

    Parameters
    ----------
    prepare : callable
        Function of the message (without its mail) and the context that returns an ``Alignment``,
        e.g. ``matching.Matching`` with a model and the node's own data. It is called only if there
        are models to align; other strategies run as with ``peer_mixing``.

    Returns
    -------
    Mod
        Like ``peer_mixing``; the metrics also include ``matching-seconds``.
    """

    def mod(msg: Message, context: Context, call_next: Answer) -> Message:
        return _mix_and_call(msg, context, call_next, prepare)

    return mod


def _mix_and_call(
    msg: Message, context: Context, call_next: Answer, prepare: Prepare | None
) -> Message:
    ask = cast(ConfigRecord, msg.content.get(records.CALL, ConfigRecord())).get("ask")
    if ask == records.ROLL_CALL:
        return Message(RecordDict({records.CALL: presence_of(context)}), reply_to=msg)
    seal = seal_of(context, msg)
    if seal and ask == records.CHECK_KEYS:
        return Message(RecordDict({records.CALL: _in_words(seal.refusals())}), reply_to=msg)
    sent = read_mail(msg.content)
    if sent is None:
        return call_next(msg, context)
    store = store_of(context.node_config, sent)
    if store:
        redeem([msg.content], store.get)
    if seal:
        seal.open(msg.content, sent.arrays_key)
    reply = _answer(msg, context, call_next, prepare)
    if seal and not reply.has_error():
        seal.close(reply.content, collected=ask == records.COLLECT)
    if store and not reply.has_error():
        deposit([reply.content], store.put)
    return reply


def _answer(msg: Message, context: Context, call_next: Answer, prepare: Prepare | None) -> Message:
    ask = cast(ConfigRecord, msg.content.get(records.CALL, ConfigRecord())).get("ask")
    mail = cast(Mail, take_mail(msg.content))
    check_aligns(mail.rule, prepare)
    if ask == records.MIX:  # the interference is that of the round's last mix
        mail = replace(mail, measured=False)
    if mail.arrays_key in msg.content:  # at the start, and after a loss
        context.state.pop(records.OPTIMIZER_ROUND, None)
    own = own_state(msg.content, context, mail)
    if own is None:  # the relay sends the node's last post with the next message
        return Message(RecordDict({records.CALL: ConfigRecord({"lost": True})}), reply_to=msg)
    own, unmixed = split(own)
    held, metrics, refused = mix(own, mail, lambda: prepare(msg, context) if prepare else None)
    held |= unmixed
    # Posts that are not forwarded are discarded, since training a large model needs the memory.
    own, mail = {}, last_received(mail, context, starts=mail.arrays_key in msg.content)
    if ask == records.COLLECT:
        return _collected(msg, context, held, refused, mail)
    if ask == records.MIX:
        return _mixed(msg, context, held, metrics, refused, mail)
    msg.content[mail.arrays_key] = ArrayRecord(model_of(held))
    reply = _call(call_next, msg, context)
    if not reply.has_error():
        # Keep it only now: SuperNodes store the state even if a call fails, and mail is sent again.
        if msg.metadata.message_type.startswith(MessageType.TRAIN) and reply.content.array_records:
            _keep_trained(reply.content, context, held, mail)
        else:  # arrays that an evaluation returns are not the node's model
            keep(context, pack_record(held), mail)
        _report(reply.content, metrics, mail)
        reply.content.update(_refusals(refused, mail))
    return reply


def _collected(
    msg: Message, context: Context, held: State, refused: dict[int, str], mail: Mail
) -> Message:
    own, model = pack_record(held), model_of(held)
    keep(context, own, mail)
    save_own_adapter(context.node_config, model)
    sent = own if model.keys() == held.keys() else pack_record(model)
    return Message(RecordDict({records.POST: sent, **_refusals(refused, mail)}), reply_to=msg)


def _mixed(
    msg: Message,
    context: Context,
    held: State,
    metrics: dict[str, float],
    refused: dict[int, str],
    mail: Mail,
) -> Message:
    content = RecordDict({**_refusals(refused, mail)})
    _report(content, metrics, mail)
    post(content, context, held, mail)
    return Message(content, reply_to=msg)


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


def _in_words(causes: Mapping[int, str]) -> ConfigRecord:
    return ConfigRecord({"senders": list(causes), "causes": list(causes.values())})


def _keep_trained(content: RecordDict, context: Context, held: State, mail: Mail) -> None:
    """Keep the trained state as the node's own, and replace it by the node's post in the reply."""
    model = model_of(held)
    trained = _trained(content, model)
    _check_frozen(model, trained, mail.trained)
    post(content, context, track(held, trained), mail)


def _trained(content: RecordDict, held: State) -> State:
    """Take the trained state out of a reply, in the order of the state before training."""
    if len(content.array_records) != 1:
        raise ValueError(
            "a train function must return exactly one ArrayRecord; got "
            f"{sorted(content.array_records)}; return only the trained arrays"
        )
    arrays = cast(ArrayRecord, content.pop(next(iter(content.array_records))))
    returned = arrays.to_torch_state_dict()
    check_alike(held, returned, who=records.TRAINED)
    return {name: returned[name] for name in held}


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
    return {records.REFUSED: _in_words(refused)}


def _report(content: RecordDict, metrics: dict[str, float], mail: Mail) -> None:
    record = next(iter(content.metric_records.values()), None)
    if record is None:
        record = content["metrics"] = MetricRecord()
    for key, value in metrics.items():
        record[key] = 0.0 if mail.repeated else value

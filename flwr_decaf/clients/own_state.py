"""The node's own state, kept in ``Context.state`` between messages, and the post made from it."""

from __future__ import annotations

from typing import cast

from flwr.app import ArrayRecord, ConfigRecord, Context, RecordDict

from flwr_decaf.clients.compression import compress
from flwr_decaf.clients.relaying import keep_mail, messages_of
from flwr_decaf.lora import State, select
from flwr_decaf.messages import records
from flwr_decaf.messages.mail import Mail
from flwr_decaf.messages.packing import (
    is_packed,
    pack,
    pack_record,
    pack_shared,
    packed_array,
    record_of,
    unpack_record,
)
from flwr_decaf.messages.quantization import dequantize
from flwr_decaf.messages.shared_posts import is_gone
from flwr_decaf.rules.ranks import padded_to
from flwr_decaf.rules.tracking import split


def own_state(content: RecordDict, context: Context, mail: Mail) -> State | None:
    """Return the state that is to be mixed with the mail; None if the node has lost it."""
    # Arrays sent with the mail replace the node's own: at the start of a run, and after a loss.
    if mail.arrays_key in content:
        arrays = cast(ArrayRecord, content[mail.arrays_key])
        state = unpack_record(arrays) if is_packed(arrays) else dict(arrays.to_torch_state_dict())
        return state | _sent_back(content, mail, like=state)
    if records.OWN not in context.state:  # the SuperNode has restarted
        return None
    version = cast(ConfigRecord, context.state.get(records.VERSION, ConfigRecord()))
    if version.get("version", "") != mail.base:  # an earlier call ended after its timeout
        return None
    own = cast(ArrayRecord, context.state[records.OWN])
    return None if is_gone(packed_array(own)) else unpack_record(own)


def _sent_back(content: RecordDict, mail: Mail, like: State) -> State:
    """Take the node's own last post, which only it can read, out of a message with arrays."""
    copy, posted = content.pop(records.COPY, None), content.pop(records.POST, None)
    if copy is not None:
        return unpack_record(cast(ArrayRecord, copy))
    if posted is None:
        return {}
    return padded_to(like, dequantize(unpack_record(cast(ArrayRecord, posted)), mail.dtype, like))


def keep(context: Context, own: ArrayRecord, mail: Mail) -> None:
    """Keep a packed state as the node's own, under the version that the mail gives it."""
    context.state[records.OWN] = own
    context.state[records.VERSION] = ConfigRecord({"version": mail.version})
    keep_mail(context, mail)


def post(content: RecordDict, context: Context, own: State, mail: Mail) -> State:
    """Keep a state as the node's own, add the post made from it to the reply, and return it."""
    pack_post = pack if mail.sealed else pack_shared
    restored = select(own, mail.exchanged)  # all that a node which lost its state needs
    exchanged, unposted = split(restored)
    posted = compress(exchanged, mail, mail.rounding)
    record = content[records.POST] = record_of(pack_post(posted))
    if mail.recipients:
        content[records.MESSAGES] = messages_of(own, mail)
    exact, suffices = record, posted is exchanged and not unposted
    if not suffices and mail.copied:
        exact = content[records.COPY] = record_of(pack_post(restored))
    # If the whole state is sent, one object serves as both and is packed and pickled only once.
    whole = restored.keys() == own.keys() and (suffices or mail.copied)
    keep(context, exact if whole else pack_record(own), mail)
    return posted

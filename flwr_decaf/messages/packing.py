"""States packed into one Flower ``Array`` in the safetensors format.

The format needs no pickle and supports bfloat16. There is one array instead of hundreds, since
Flower's overhead is per array.
"""

from __future__ import annotations

import json
from pathlib import Path

import safetensors.torch
from flwr.app import Array, ArrayRecord

from flwr_decaf.lora import State
from flwr_decaf.messages.encryption import MAGIC
from flwr_decaf.messages.shared_posts import TICKET, data_of, share

PACKED = "safetensors"  # stype of an Array that holds a state, and its key in a record
STORED = "safetensors-stored"  # stype of an Array that holds a ticket of messages.post_store
SEALED = "safetensors-sealed"  # stype of an Array that holds an encrypted state
UNREADABLE = "safetensors-refused"  # stype of an Array that says why a state cannot be opened
_ORDER = "order"


def pack(state: State) -> Array:
    """Serialize a state into one array.

    The order of the names is stored with the tensors (safetensors sorts them), because some
    projects rely on it: ``ArrayRecord.to_numpy_ndarrays`` returns a plain list.
    """
    return packed(safetensors.torch.save(_laid_out(state), metadata=_order_of(state)))


def pack_shared(state: State) -> Array:
    """Serialize a state into a shared file if processes share posts, otherwise into one array."""

    def write(file: Path) -> None:
        safetensors.torch.save_file(_laid_out(state), file, metadata=_order_of(state))

    ticket = share(write)
    return pack(state) if ticket is None else ticket


def _laid_out(state: State) -> State:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}


def _order_of(state: State) -> dict[str, str]:
    return {_ORDER: json.dumps(list(state))}


def packed(data: bytes) -> Array:
    """Create an array from bytes that ``pack`` or ``encryption.seal`` produced."""
    stype = SEALED if data.startswith(MAGIC) else PACKED
    return Array(dtype="uint8", shape=(len(data),), stype=stype, data=data)


def refused(cause: str) -> Array:
    """Create an array in place of a post that cannot be opened; ``unpack`` raises the cause."""
    data = cause.encode()
    return Array(dtype="uint8", shape=(len(data),), stype=UNREADABLE, data=data)


def unpack(array: Array) -> State:
    """Read a packed state, shared or not.

    Raises
    ------
    ValueError
        If the array does not contain a well-formed state.
    """
    if array.stype == STORED:
        raise ValueError("it is not in the store, damaged there, or could not be read in time")
    if array.stype == UNREADABLE:
        raise ValueError(array.data.decode(errors="replace"))
    if array.stype == SEALED:
        raise ValueError("it is encrypted, and the run is not; see posts.encryption")
    if array.stype not in (PACKED, TICKET):
        raise ValueError(f"a packed state must be of stype {PACKED!r}; got {array.stype!r}")
    try:
        # Do not use safetensors' memory mapping, which leaks 64 bytes per tensor in PyTorch.
        return _load(data_of(array))
    except (OSError, safetensors.SafetensorError, KeyError, ValueError, TypeError) as error:
        raise ValueError(f"a packed state cannot be read: {error}") from error


def _load(data: bytes) -> State:
    tensors = safetensors.torch.load(data)
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return {name: tensors[name] for name in json.loads(header["__metadata__"][_ORDER])}


def pack_record(state: State) -> ArrayRecord:
    """Pack a state into a record."""
    return record_of(pack(state))


def record_of(post: Array) -> ArrayRecord:
    """Create the record of a packed state."""
    return ArrayRecord({PACKED: post})


def unpack_record(record: ArrayRecord) -> State:
    """Read the state of a record made by ``pack_record``."""
    return unpack(record[PACKED])


def packed_array(record: ArrayRecord) -> Array:
    """Return the array of a packed record, still packed: the relay forwards it unread."""
    return record[PACKED]


def is_packed(record: ArrayRecord) -> bool:
    """Return whether a record is that of a packed state, encrypted or not, or of its ticket."""
    return {array.stype for array in record.values()} <= {PACKED, SEALED, STORED, TICKET}

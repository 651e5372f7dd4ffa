"""The file of an encoder's hidden states: its name, the room for it, and the format of a row."""

from __future__ import annotations

import hashlib
import platform
import shutil
from dataclasses import dataclass

import torch
from torch import Tensor

from flwr_decaf import __version__
from flwr_decaf.caches import private_folder
from flwr_decaf.clients.models.encoder_inputs import as_bytes
from flwr_decaf.clients.models.encoders import Encoder
from flwr_decaf.clients.models.row_store import RowStore, make_room, size_of

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_FORMAT = 2  # increased whenever the values of a row, or their format, change


class NotKept(Exception):
    """Why hidden states are not kept; the message may leave the machine: no paths, no rows."""


@dataclass(frozen=True)
class Room:
    """What may be kept.

    Attributes
    ----------
    limit : int
        Bytes on disk, for all models together.
    rows : int
        Number of rows of the data; 0 if it is unknown.
    length : int
        Maximum number of tokens of a text.
    dtype : torch.dtype or None
        Data type in which hidden states are kept; by default that in which they are computed.
    """

    limit: int
    rows: int
    length: int
    dtype: torch.dtype | None = None


def open_store(encoder: Encoder, room: Room, row_bytes: int) -> RowStore:
    """Open the file of an encoder, or create it.

    If the number of rows is unknown, all of the space that ``room`` allows is freed.

    Parameters
    ----------
    encoder : Encoder
        The encoder.
    room : Room
        What may be kept.
    row_bytes : int
        Maximum size of a row in bytes.

    Raises
    ------
    NotKept
        If the rows do not fit within the limit or on the disk.
    OSError
        If the file cannot be opened.
    """
    folder = private_folder("hidden-states")
    file = folder / f"{_name(encoder, room.dtype)}.sqlite"
    needed = row_bytes * (room.rows or 1)
    left = make_room(folder, file, needed if room.rows else room.limit, room.limit)
    on_disk = shutil.disk_usage(folder).free + size_of(file)
    for size, where in ((left, "left of model.prefix-cache"), (on_disk, "free on its disk")):
        if needed > size:
            raise NotKept(
                f"{room.rows or 'even a few'} rows take up to {needed / 1e9:.2g} GB, but only "
                f"{size / 1e9:.2g} GB are {where}"
            )
    return RowStore(file, min(left, on_disk))


def _name(encoder: Encoder, dtype: torch.dtype | None) -> str:
    """Hash everything that hidden states depend on, other than the inputs and the device."""
    cpu = (platform.machine(), torch.backends.cpu.get_cpu_capability())
    versions = (_FORMAT, __version__, torch.__version__, *cpu, dtype, encoder.frozen)
    start = repr((versions, str(encoder.root.config)))
    digest = hashlib.blake2b(start.encode(), digest_size=16)
    for part in encoder.prefix:
        for tensor in (*part.parameters(recurse=False), *part.buffers(recurse=False)):
            digest.update(as_bytes(tensor))
    return digest.hexdigest()


def packed(states: Tensor) -> bytes:
    """Return the hidden states of a row, (tokens, width), in the format of the file."""
    head = f"{str(states.dtype).removeprefix('torch.')} {states.shape[1]} "
    return head.encode() + as_bytes(states)


def unpacked(row: bytes) -> Tensor:
    """Read the hidden states of a row: (tokens, width)."""
    dtype, width, values = row.split(b" ", 2)
    return torch.frombuffer(bytearray(values), dtype=_DTYPES[dtype.decode()]).view(-1, int(width))

"""The frozen prefix of a model, computed once for each row.

No trained parameter lies below layer k, so the hidden states that enter it depend on the row alone.
They are the same at every node, in every round and under every method. ``FrozenPrefix`` keeps them
in a file, and starts forward passes at layer k.
"""

from __future__ import annotations

import hashlib
import logging
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import cached_assets_path
from torch import Tensor, nn

from flwr_decaf import __version__
from flwr_decaf.clients.models.encoder_inputs import EncoderInputs, as_bytes
from flwr_decaf.clients.models.encoders import Encoder, evaluating
from flwr_decaf.clients.models.row_store import RowStore, make_room

_log = logging.getLogger("flwr")

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class _Reached(Exception):
    """Ends a forward pass at layer k; it is not an error."""


@dataclass(frozen=True)
class Room:
    """What may be kept.

    Attributes
    ----------
    limit : int
        Bytes on disk, for all models together.
    rows : int
        Number of rows of the data.
    length : int
        Maximum number of tokens of a text.
    dtype : torch.dtype or None
        Data type in which hidden states are kept; None for that in which they are computed.
    """

    limit: int
    rows: int
    length: int
    dtype: torch.dtype | None = None


class FrozenPrefix:
    """Hidden states that enter the first layer of an encoder that is not frozen.

    A forward pass of the encoder looks up each of its rows by content. It computes those that are
    missing, each alone and without padding, so that the values depend neither on the batch nor on
    the order of the rows, and keeps them. The layers below are then skipped. Embeddings are
    computed, but their result is not used.

    It steps aside, and the encoder computes as usual, while dropout is at work below (while one of
    these modules is in training mode), in training on augmented pictures, for inputs that
    ``EncoderInputs`` does not take apart, or if there is not enough room. It also does so if the
    first rows show that the result is not the same: the largest difference of the encoder's output
    may be sqrt(eps) of the largest value, where eps is that of the dtype of the hidden states.

    Parameters
    ----------
    encoder : Encoder
        The encoder, with at least one frozen layer.
    room : Room
        What may be kept.
    augmented : bool
        Whether the encoder's inputs are augmented at random in training.

    Attributes
    ----------
    read, computed : int
        Number of rows whose hidden states were read, and computed, since the start.
    """

    def __init__(self, encoder: Encoder, room: Room, augmented: bool = False) -> None:
        self.encoder, self.room, self.augmented = encoder, room, augmented
        self.read = self.computed = 0
        self._prefix = encoder.prefix
        self._store: RowStore | None = None
        self._declined = self._capturing = False
        self._captured = self._states = torch.empty(0)

    def attach(self) -> FrozenPrefix:
        """Hook into the encoder's forward pass, for good."""
        for layer in self.encoder.layers[: self.encoder.frozen]:
            self._make_skippable(layer)
        self.encoder.root.register_forward_pre_hook(self._look_up, with_kwargs=True)
        self.encoder.root.register_forward_hook(self._forget, always_call=True)
        first = self.encoder.layers[self.encoder.frozen]
        first.register_forward_pre_hook(self._enter, with_kwargs=True)
        return self

    def _make_skippable(self, layer: nn.Module) -> None:
        compute = layer.forward

        def forward(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
            skips = self._states.numel() > 0
            return hidden_states if skips else compute(hidden_states, *args, **kwargs)

        layer.forward = forward

    def _look_up(self, root: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        applies = not any(part.training for part in self._prefix)
        changes = self.augmented and torch.is_grad_enabled()
        if self._capturing or self._declined or not applies or changes:
            return
        inputs = EncoderInputs.of(root, args, kwargs)
        if inputs is None or not len(inputs):
            return
        if self._store is None:
            self._open(inputs)
        if self._store is not None:
            self._states = self._states_of(inputs, self._store)

    def _forget(self, *_: Any) -> None:
        self._states = torch.empty(0)

    def _enter(
        self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        came = args[0] if args else kwargs["hidden_states"]
        if self._capturing:
            self._captured = came.detach()
            raise _Reached
        if not self._states.numel():
            return None
        states = self._states.to(came)
        return ((states, *args[1:]), kwargs) if args else ((), {**kwargs, "hidden_states": states})

    def _states_of(self, inputs: EncoderInputs, store: RowStore) -> Tensor:
        """Read or compute the hidden states of a batch: (rows, tokens, width), padded with 0."""
        device = next(iter(inputs.tensors.values())).device.type
        autocast = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device)
        keys = inputs.keys(autocast)
        found = store.get(keys)
        missing = {key: place for place, key in enumerate(keys) if key not in found}
        fresh = {key: self._compute(inputs.row(place)) for key, place in missing.items()}
        store.add({key: _packed(states) for key, states in fresh.items()})
        self.read += len(keys) - len(fresh)
        self.computed += len(fresh)
        rows = [fresh[key] if key in fresh else _unpacked(found[key]) for key in keys]
        padded = torch.zeros(len(rows), inputs.width or len(rows[0]), rows[0].shape[1])
        padded = padded.to(rows[0].dtype)
        for place, states in enumerate(rows):
            padded[place, : len(states)] = states
        return padded

    def _compute(self, row: dict[str, Any]) -> Tensor:
        """Compute the hidden states of one row: (tokens, width), as they are kept."""
        self._capturing = True
        try:
            with torch.no_grad():
                self.encoder.root(**row)
        except _Reached:
            pass
        finally:
            self._capturing = False
        return self._captured[0].to("cpu", self.room.dtype or self._captured.dtype)

    def _open(self, inputs: EncoderInputs) -> None:
        """Open the file if there is room for the rows, and check the result on the first rows."""
        states = self._compute(inputs.row(0))
        tokens = self.room.length if inputs.width else len(states)
        needed = self.room.rows * tokens * states.shape[1] * states.element_size()
        folder = cached_assets_path("flwr-decaf", namespace="hidden-states")
        file = folder / f"{self._name()}.sqlite"
        try:
            left = make_room(folder, file, needed, self.room.limit)
            self._check_room(needed, left, 0 if file.exists() else needed, folder)
            store = RowStore(file, left)
            self._check_result(inputs, store)
        except (OSError, ValueError) as error:
            self._declined = True
            _log.warning("Hidden states of frozen layers are not kept: %s", error)
        else:
            self._store = store
        self.read = self.computed = 0

    def _check_room(self, needed: int, left: int, on_disk: int, folder: Path) -> None:
        free = shutil.disk_usage(folder).free
        for size, room, where in (
            (needed, left, "left of model.prefix-cache"),
            (on_disk, free, f"free in {folder}"),
        ):
            if size > room:
                raise ValueError(
                    f"{self.room.rows} rows take up to {size / 1e9:.2g} GB, and only "
                    f"{room / 1e9:.2g} GB are {where}"
                )

    def _check_result(self, inputs: EncoderInputs, store: RowStore) -> None:
        """Compare outputs with and without kept states, on a row and its padded first half."""
        pair = inputs.row(0)
        if inputs.lengths is not None:
            pair = {k: x.repeat(2, 1) if isinstance(x, Tensor) else x for k, x in pair.items()}
            pair["attention_mask"][1, inputs.lengths[0] // 2 + 1 :] = 0
        root = self.encoder.root
        with torch.no_grad(), evaluating(root):
            self._declined = True
            usual = _first_output(root(**pair))
            self._declined, self._store = False, store
            try:
                ours = _first_output(root(**pair))
            finally:
                self._store = None
        if inputs.lengths is not None:
            shown = pair["attention_mask"].bool()
            usual, ours = usual[shown], ours[shown]
        dtype = self.room.dtype or self._captured.dtype
        difference = float((usual - ours).abs().max() / usual.abs().max())
        if not difference <= torch.finfo(dtype).eps ** 0.5:
            raise ValueError(
                f"the output of {type(root).__name__} would differ by {difference:.1g} of its "
                "largest value"
            )

    def _name(self) -> str:
        """Hash everything that the hidden states depend on besides the inputs and the device."""
        root, frozen = self.encoder.root, self.encoder.frozen
        cpu = (platform.machine(), torch.backends.cpu.get_cpu_capability())
        versions = (__version__, torch.__version__, *cpu, self.room.dtype, frozen)
        digest = hashlib.blake2b(repr((versions, str(root.config))).encode(), digest_size=16)
        for part in self._prefix:
            for tensor in (*part.parameters(recurse=False), *part.buffers(recurse=False)):
                digest.update(as_bytes(tensor))
        return digest.hexdigest()


def _first_output(output: Any) -> Tensor:
    first: Tensor = output if isinstance(output, Tensor) else output[0]
    return first.float()


def _packed(states: Tensor) -> bytes:
    head = f"{str(states.dtype).removeprefix('torch.')} {states.shape[1]} "
    return head.encode() + as_bytes(states)


def _unpacked(packed: bytes) -> Tensor:
    dtype, width, values = packed.split(b" ", 2)
    return torch.frombuffer(bytearray(values), dtype=_DTYPES[dtype.decode()]).view(-1, int(width))

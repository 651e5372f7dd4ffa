"""The frozen prefix of a model, computed once for each row.

There are no trained parameters below layer k, so the hidden states that enter it depend only on the
row. They are the same at every node, in every round and with every method. ``FrozenPrefix`` keeps
them in a file, and starts forward passes at layer k.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor, nn

from flwr_decaf.clients.models.encoder_inputs import EncoderInputs
from flwr_decaf.clients.models.encoders import Encoder, evaluating
from flwr_decaf.clients.models.kept_states import NotKept, Room, open_store, packed, unpacked
from flwr_decaf.clients.models.row_store import RowStore
from flwr_decaf.text import first_line

_log = logging.getLogger("flwr")


class _Reached(Exception):
    """Ends a forward pass at layer k; it is not an error."""


class FrozenPrefix:
    """Hidden states that enter the first layer of an encoder that is not frozen.

    A forward pass of the encoder looks up each of its rows by content. Missing rows are computed in
    evaluation mode and without padding, and are kept. The layers below are then skipped. Embeddings
    are computed, but their result is not used.

    The values depend neither on the batch nor on the order of the rows: rows of one length are
    computed together only if the last of them then has the same bits as when it is computed alone.
    This is checked once for each shape of batch, since kernels are chosen by shape.

    The encoder computes all layers as usual while dropout is active below layer k (that is, while
    one of these modules is in training mode), in training on augmented images, and for inputs that
    ``EncoderInputs`` cannot separate into rows. It always does so if there is not enough room, if
    the model's code fails on the first rows, or if these show that the result is not the same: the
    largest difference in the encoder's output may be sqrt(eps) of its largest value, where eps is
    that of the dtype of the hidden states.

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
    not_kept : str
        Why nothing is kept; empty while something is, or before the first rows.
    """

    def __init__(self, encoder: Encoder, room: Room, augmented: bool = False) -> None:
        self.encoder, self.room, self.augmented = encoder, room, augmented
        self.read = self.computed = 0
        self._prefix = encoder.prefix
        self.not_kept = ""
        self._store: RowStore | None = None
        self._asleep = self._capturing = False
        self._captured = self._states = torch.empty(0)
        self._as_alone: dict[object, bool] = {}  # by shape of batch

    def attach(self) -> FrozenPrefix:
        """Hook into the encoder's forward pass permanently."""
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
        if self._capturing or self._asleep or self.not_kept or not applies or changes:
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
        fresh: dict[bytes, Tensor] = {}
        if missing:
            fresh = dict(zip(missing, self._compute(inputs, list(missing.values())), strict=True))
            store.add({key: packed(states) for key, states in fresh.items()})
        self.read += len(keys) - len(fresh)
        self.computed += len(fresh)
        rows = [fresh[key] if key in fresh else unpacked(found[key]) for key in keys]
        padded = torch.zeros(len(rows), inputs.width or len(rows[0]), rows[0].shape[1])
        padded = padded.to(rows[0].dtype)
        for place, states in enumerate(rows):
            padded[place, : len(states)] = states
        return padded

    def _compute(self, inputs: EncoderInputs, places: list[int]) -> list[Tensor]:
        """Compute the hidden states of some rows, (tokens, width) each, in the file's dtype."""
        computed: dict[int, Tensor] = {}
        with torch.no_grad(), evaluating(self.encoder.root):
            for group in inputs.by_length(places):
                computed |= zip(group, self._compute_group(inputs, group), strict=True)
        return [computed[place].to("cpu", self.room.dtype) for place in places]

    def _compute_group(self, inputs: EncoderInputs, group: list[int]) -> list[Tensor]:
        """Compute rows of one length, together if each then has the same bits as alone."""
        if len(group) > 1:
            together = self._run(inputs.rows(group))
            kind = (together.shape, together.dtype, together.device)
            if kind not in self._as_alone:
                last = self._run(inputs.rows(group[-1:]))
                self._as_alone[kind] = torch.equal(together[-1:], last)
            if self._as_alone[kind]:
                return list(together)
        return [self._run(inputs.rows([place]))[0] for place in group]

    def _run(self, rows: dict[str, Any]) -> Tensor:
        """Run the encoder up to layer k, and return what enters it: (rows, tokens, width)."""
        self._captured, self._capturing = torch.empty(0), True
        try:
            self.encoder.root(**rows)
        except _Reached:
            return self._captured
        finally:
            self._capturing = False
        raise NotKept(f"{type(self.encoder.root).__name__} calls no layer as a module")

    def _open(self, inputs: EncoderInputs) -> None:
        """Open the file, unless there is no room for the rows or their result is not the same."""
        cause = ""
        try:
            (states,) = self._compute(inputs, [0])
            tokens = self.room.length if inputs.width else len(states)
            row_bytes = tokens * states.shape[1] * states.element_size()
            store = open_store(self.encoder, self.room, row_bytes)
            self._check_result(inputs, store)
        except NotKept as error:
            self.not_kept = str(error)
        except Exception as error:
            # The model's own code runs here on rows that it may not be made for, and can raise
            # anything; training then uses no kept states. The text of the error stays in this log.
            self.not_kept = f"{type(error).__name__} in {type(self.encoder.root).__name__}"
            cause = f": {first_line(error)}"
        else:
            self._store = store
        if self.not_kept:
            _log.warning("Hidden states of frozen layers are not kept: %s%s", self.not_kept, cause)
        self.read = self.computed = 0

    def _check_result(self, inputs: EncoderInputs, store: RowStore) -> None:
        """Compare outputs with and without kept states, on a row and its padded first half."""
        pair = inputs.rows([0])
        if inputs.lengths is not None:
            pair = {k: x.repeat(2, 1) if isinstance(x, Tensor) else x for k, x in pair.items()}
            pair["attention_mask"][1, inputs.lengths[0] // 2 + 1 :] = 0
        root = self.encoder.root
        with torch.no_grad(), evaluating(root):
            self._asleep = True
            try:
                usual = _first_output(root(**pair))
                self._asleep, self._store = False, store
                ours = _first_output(root(**pair))
            finally:
                self._asleep, self._store = False, None
        if inputs.lengths is not None:
            shown = pair["attention_mask"].bool()
            usual, ours = usual[shown], ours[shown]
        dtype = self.room.dtype or self._captured.dtype
        difference = float((usual - ours).abs().max() / usual.abs().max())
        if not difference <= torch.finfo(dtype).eps ** 0.5:
            raise NotKept(
                f"the output of {type(root).__name__} would differ by {difference:.1g} of its "
                "largest value"
            )


def _first_output(output: Any) -> Tensor:
    first: Tensor = output if isinstance(output, Tensor) else output[0]
    return first.float()

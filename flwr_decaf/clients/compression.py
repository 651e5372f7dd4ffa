"""Compression of posts: from a node's state to what it sends, and to what its neighbours see."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from flwr_decaf.lora import State, select
from flwr_decaf.messages.mail import Mail
from flwr_decaf.messages.quantization import dequantize, quantize
from flwr_decaf.rules.energy import keep_energy


def compress(exchanged: State, mail: Mail, seed: int) -> State:
    """Truncate products to their leading components, and quantize the factors.

    Parameters
    ----------
    exchanged : State
        Tensors of the node that are exchanged.
    mail : Mail
        Mail with the share of the energy that is posted, and the dtype of posts.
    seed : int
        Seed of the rounding.

    Returns
    -------
    State
        What is posted; ``exchanged`` itself if nothing is to be compressed.
    """
    with one_thread():  # a node must find the same components again when it mixes
        return quantize(keep_energy(exchanged, mail.energy), mail.dtype, seed)


def as_posted(own: State, mail: Mail) -> State:
    """Return the node's own state as its neighbours see it: its post, dequantized.

    Tensors that compression does not change are the same objects as in ``own``.
    """
    if mail.rounded < 0:
        return own
    exchanged = select(own, mail.exchanged)
    return own | dequantize(compress(exchanged, mail, mail.rounded), mail.dtype, like=exchanged)


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread.

    Decompositions on two threads differ in their last bits from those on one, and the number of
    threads that the user's code sets may differ between processes.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)

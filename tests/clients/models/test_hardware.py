from __future__ import annotations

import pytest
import torch

from flwr_decaf.clients.models.adapter import get_adapter, initialize_adapter
from flwr_decaf.clients.models.hardware import PRECISIONS, choose_device
from flwr_decaf.clients.training import evaluate_rows, train_locally
from flwr_decaf.config import Train


def test_auto_is_the_gpu_if_there_is_one():
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    if not torch.backends.mps.is_available():
        assert choose_device("auto").type == expected
    assert choose_device("cpu").type == "cpu"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_rejected_in_one_line():
    with pytest.raises(ValueError, match=r"train.device must be .*got 'cuda'.*--gpus.*auto or cpu"):
        choose_device("cuda")


@pytest.mark.parametrize("precision", [name for name in PRECISIONS if name != "fp32"])
def test_a_lower_precision_trains_to_nearly_the_same_and_keeps_the_adapter_in_fp32(
    task, rows, precision
):
    losses = []
    for chosen in ("fp32", precision):
        initialize_adapter(task.model, seed=0)
        train = Train(local_steps=2, batch_size=2, precision=chosen)
        train_locally(task, rows.train, train, "AB", seed=0)
        losses.append(evaluate_rows(task, rows.test.select(range(4)), train)["loss"])
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
    assert losses[1] != losses[0]  # the other precision was really used
    assert {x.dtype for x in get_adapter(task.model).values()} == {torch.float32}

"""What every decentralized strategy must satisfy with quantized posts."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from flwr_decaf.lora import select
from flwr_decaf.messages.packing import pack
from flwr_decaf.messages.quantization import quantize
from flwr_decaf.rules.tracking import split, with_tracking
from tests.states import dense_products
from tests.strategies.conformance import (
    CASES,
    DEGREES,
    POSTED_TIMES,
    SHAPES,
    WEIGHTS,
    equal,
    first_ranks,
    initial,
    plain,
    reported,
    run,
    stopped_after,
    with_ranks,
)


@pytest.mark.parametrize("dtype", ["bf16", "int8"])
@pytest.mark.parametrize("name", [name for name in CASES if name != "relay-sum"])  # it refuses
class TestEveryStrategyWithQuantizedPosts:
    def test_evaluating_does_not_change_what_nodes_hold(self, name, dtype):
        held, other = plain(name, dtype=dtype)[1], run(name, evaluate_every=2, dtype=dtype)[1]
        assert all(equal(held[node], other[node]) for node in held)

    @pytest.mark.parametrize("n", [1, 2, 3])
    def test_nodes_hold_nearly_the_same_as_with_exact_posts(self, name, n, dtype):
        _, exact, *_ = plain(name, n=n)
        result, held, *_ = plain(name, n=n, dtype=dtype)
        assert list(result.arrays) == list(initial())
        for node, state in held.items():
            for key, x in dense_products(state).items():
                torch.testing.assert_close(x, dense_products(exact[node])[key], atol=0.3, rtol=0)
            changed = name != "local-only" and n > 1
            assert equal(state, exact[node]) != changed

    @pytest.mark.parametrize("stop", [1, 2, 3])
    def test_a_resumed_run_gives_the_result_of_an_uninterrupted_one(self, name, stop, dtype):
        once, whole, *_ = plain(name, dtype=dtype)
        reached = stopped_after(name, stop, dtype)
        again, resumed, _ = run(name, resume_from=reached, dtype=dtype)
        assert all(equal(whole[node], resumed[node]) for node in whole)
        for metrics in ("train_metrics_clientapp", "evaluate_metrics_clientapp"):
            for t, record in getattr(again, metrics).items():
                assert reported(record) == reported(getattr(once, metrics)[t])
        arrays = [ran.arrays.to_torch_state_dict() for ran in (once, again)]
        assert equal(*arrays)

    def test_bytes_are_what_travels(self, name, dtype):
        result, *_ = plain(name, dtype=dtype)
        factors, degree = CASES[name][1], DEGREES.get(name, 2)
        sizes = []
        for ranks in (first_ranks(name, node) for node in range(4)):
            state = with_ranks(initial(), ranks)
            posted = quantize(select(state, factors or "AB"), dtype, seed=0)
            if name in POSTED_TIMES:
                posted = quantize(split(with_tracking(state))[0], dtype, seed=0)
            a, b = (sum(ranks[x] * SHAPES[x][side] for x in SHAPES) for side in (1, 0))
            values = {"AB": a + b, "B": b, "": a + b}[factors] + 24
            rank = sum(ranks.values())
            rows = {"AB": 2 * rank, "B": rank, "": 2 * rank}[factors] + 4
            size = 2 * values if dtype == "bf16" else values + 4 * rows
            size *= POSTED_TIMES.get(name, 1)
            header = len(pack(posted).data) - size
            assert 0 < header < 3000
            sizes.append(degree * (size + header))
        sent = result.train_metrics_clientapp[1]["bytes-sent"]
        assert sent == pytest.approx(np.average(sizes, weights=WEIGHTS))

"""What every decentralized strategy must satisfy with asynchronous rounds."""

from __future__ import annotations

import pytest
import torch

from tests.local_grid import LocalGrid
from tests.strategies.conformance import CASES, app_of, equal, plain, reported, run

IN_ROUNDS = {"tad-lora", "rolora", "relay-sum", "gradient-tracking"}  # their rounds are common


@pytest.mark.parametrize("name", [name for name in CASES if name not in IN_ROUNDS])
class TestEveryStrategyWithAsynchronousRounds:
    @pytest.mark.parametrize("dtype", ["fp32", "int8"])
    def test_equally_fast_nodes_hold_what_synchronous_rounds_give_them(self, name, dtype):
        once, expected, *_ = plain(name, dtype=dtype)
        kept = []
        given = {"dtype": dtype, "options": {"rounds": "asynchronous"}}
        again, held, _ = run(name, on_round=kept.append, **given)
        assert [reached.server_round for reached in kept] == [1, 2, 3]
        _, resumed, _ = run(name, resume_from=kept[1], **given)
        for node, state in held.items():
            assert equal(expected[node], state)
            assert equal(expected[node], resumed[node])
        assert sorted(held) == sorted(expected)
        assert equal(*(ran.arrays.to_torch_state_dict() for ran in (once, again)))
        for metrics in ("train_metrics_clientapp", "evaluate_metrics_clientapp"):
            records = [
                {t: reported(record) for t, record in getattr(ran, metrics).items()}
                for ran in (once, again)
            ]
            assert records[0].keys() == records[1].keys()
            for t, record in records[0].items():
                also = {key: records[1][t][key] for key in record}
                assert also == pytest.approx(record, rel=1e-12)

    @pytest.mark.parametrize("n", [1, 2, 3])
    def test_a_slow_node_stops_earlier_and_takes_part_in_the_last_mix(self, name, n):
        grid = LocalGrid(app_of(name), n)
        grid.duration = lambda message: 5.0 if grid.place_of(message) == 0 else 1.0
        result, held, _ = run(name, n=n, rounds=6, grid=grid, options={"rounds": "asynchronous"})
        assert sorted(held) == list(range(n))
        assert all(torch.isfinite(x).all() for state in held.values() for x in state.values())
        assert sorted(result.train_metrics_clientapp) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("name", sorted(IN_ROUNDS))
def test_strategies_of_common_rounds_refuse_asynchronous_ones(name):
    with pytest.raises(ValueError, match="rounds.mode must be synchronous with"):
        run(name, options={"rounds": "asynchronous"})

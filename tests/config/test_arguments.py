from __future__ import annotations

import numpy as np
import pytest

from flwr_decaf.config.arguments import check_argument, check_topology_options
from flwr_decaf.strategies import DeCAF, DLoRA, TADLoRA


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"topology_options": {"degre": 3}}, "got 'degre'; did you mean 'degree'"),
        ({"topology_options": {"degree": 0}}, r"topology_options\['degree'\] must be >= 1; got 0"),
        ({"topology_options": {"edge_probability": 2}}, r"must be in \[0, 1\]; got 2.0"),
        ({"drop_probability": 2}, "drop_probability must be >= 0 and < 1; got 2.0"),
        ({"retries": -1}, "retries must be >= 0; got -1"),
        ({"max_failures": -2}, "max_failures must be >= -1; got -2"),
        ({"evaluate_every": -1}, "evaluate_every must be >= 0; got -1"),
        ({"evaluate_every": 1.5}, "evaluate_every must be a whole number; got 1.5"),
        ({"evaluate_fraction": 0}, "evaluate_fraction must be > 0"),
        ({"robust": "median"}, "robust must be one of none, clipping"),
        ({"byzantine": -1}, "byzantine must be >= 0; got -1"),
        ({"sign_flipping": -1}, "sign_flipping must be >= 0"),
        ({"seed": -1}, "seed must be >= 0"),
        ({"weights": "equal"}, "weights must be one of metropolis"),
        ({"dynamic": "often"}, "dynamic must be one of static"),
    ],
)
@pytest.mark.parametrize("strategy", [DeCAF, DLoRA, TADLoRA])
def test_arguments_are_checked_like_settings(strategy, arguments, message):
    with pytest.raises(ValueError, match=message) as info:
        strategy("ring", **arguments)
    assert "\n" not in str(info.value)


def test_numbers_of_other_libraries_are_accepted():
    assert check_argument("retries", np.int64(3), "retries") == 3
    assert check_topology_options({"edge_probability": np.float32(0.5), "degree": 3}) == {
        "edge_probability": 0.5, "degree": 3,
    }  # fmt: skip
    assert check_argument("drop_probability", 0, "drop-probability") == 0.0


def test_the_metrics_functions_may_be_none_as_in_fedavg():
    strategy = DeCAF(train_metrics_aggr_fn=None, evaluate_metrics_aggr_fn=None)
    assert strategy.train_metrics_aggr_fn is strategy.evaluate_metrics_aggr_fn is not None

from __future__ import annotations

import pytest
from flwr.app import ArrayRecord
from flwr.clientapp import ClientApp

from flwr_decaf.clients import peer_mixing
from flwr_decaf.strategies import STRATEGIES
from tests.local_grid import LocalGrid
from tests.states import lora_state


def test_dimat_is_refused_before_training_if_clients_do_not_match_models():
    trained = []
    app = ClientApp(mods=[peer_mixing])
    app.train()(lambda msg, context: trained.append(msg))
    with pytest.raises(RuntimeError, match=r"strategy dimat needs clients that match"):
        STRATEGIES["dimat"]("ring").start(LocalGrid(app, 3), ArrayRecord(lora_state(0)))
    assert not trained

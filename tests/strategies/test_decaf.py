from __future__ import annotations

import numpy as np
from flwr.app import ArrayRecord
from flwr.clientapp import ClientApp

from flwr_decaf.clients import peer_mixing
from flwr_decaf.strategies import STRATEGIES
from tests.local_grid import LocalGrid
from tests.states import dense_products, lora_state
from tests.strategies.conformance import train


def test_on_a_complete_graph_decaf_makes_all_products_equal():
    app = ClientApp(mods=[peer_mixing])
    app.train()(train)
    grid = LocalGrid(app, 4)
    strategy = STRATEGIES["decaf"](topology="complete", evaluate_every=0)
    strategy.start(grid, ArrayRecord(lora_state(0)), num_rounds=2)
    products = [dense_products(state) for state in strategy.collect(grid).values()]
    for other in products[1:]:
        for layer, product in other.items():
            np.testing.assert_allclose(product, products[0][layer], atol=1e-12)

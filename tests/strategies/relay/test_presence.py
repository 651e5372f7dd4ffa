from __future__ import annotations

import pytest
from flwr.app import ConfigRecord

from flwr_decaf.messages import records
from flwr_decaf.strategies.relay.presence import require_stores


@pytest.mark.parametrize(("places", "missing"), [((1, 3), "3"), ((None, None), "1")])
def test_a_node_without_a_store_is_named_by_its_partition_or_its_place(places, missing):
    answers = {
        node_id: ConfigRecord(
            {records.OWN_STORE: node_id == 7} | ({} if place is None else {"partition-id": place})
        )
        for node_id, place in zip((7, 8), places, strict=True)
    }
    with pytest.raises(RuntimeError, match=f"missing at node {missing};"):
        require_stores(answers)

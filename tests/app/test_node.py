"""A node as seen by the ClientApp's functions: settings, rows, phase and reply."""

from __future__ import annotations

import json

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MessageType, RecordDict

from flwr_decaf.app.node import describe_rows, load_node, receive, reply
from flwr_decaf.clients.models.adapter import get_adapter
from flwr_decaf.clients.models.hardware import LossScaling
from flwr_decaf.config import Config, flatten

SETTINGS = {
    "data.max-train-samples": 60, "data.max-test-samples": 20, "data.partitioner": "iid",
    "train.local-steps": 2, "train.batch-size": 4,
}  # fmt: skip


def context_of(position, n=2):
    settings = flatten(Config()) | SETTINGS
    node = {"partition-id": position, "num-partitions": n}
    return Context(0, 0, node, RecordDict(), settings)


def message(arrays=None, **config):
    content = RecordDict({"config": ConfigRecord({"server-round": 3, **config})})
    if arrays is not None:
        content["arrays"] = ArrayRecord(arrays)
    message = Message(content=content, dst_node_id=1, message_type=MessageType.TRAIN)
    message.metadata.__dict__["_message_id"] = "a"  # as the SuperLink sets it; a reply names it
    return message


@pytest.fixture(scope="module")
def adapter():
    from flwr_decaf.clients.loading import load_task

    config = Config()
    return get_adapter(load_task(config.model, config.lora, config.data).model)


def test_it_holds_the_adapter_the_phase_and_what_the_node_reported(adapter):
    sent = {name: torch.full_like(tensor, 0.5) for name, tensor in adapter.items()}
    reported = json.dumps({"1": [1024.0, 7]})
    asked = message(sent, **{"trainable-factors": "B", "loss-scaling": reported})
    node = receive(asked, context_of(1))
    assert (node.position, node.server_round, node.trainable) == (1, 3, "B")
    assert node.scaling == LossScaling(1024.0, 7)
    held = get_adapter(node.task.model)
    assert all(torch.equal(held[name], sent[name]) for name in sent)
    answer = reply(asked, node, 12, {"loss": 0.5}, trained=True)
    metrics = answer.content["metrics"]
    assert (metrics["partition-id"], metrics["num-examples"], metrics["loss"]) == (1, 12, 0.5)
    assert list(answer.content["arrays"]) == list(sent)
    assert "arrays" not in reply(asked, node, 12, {}).content


def test_settings_of_the_message_replace_those_of_the_run(adapter):
    compared = json.dumps({"seed": 5, "strategy": "centralized"})
    node = receive(message(adapter, settings=compared), context_of(1))
    assert node.config.seed == 5
    shares = [receive(message(adapter), context_of(place)).data.train for place in (0, 1)]
    # One node, as node 0, has all rows.
    assert node.position == 0
    assert len(node.data.train) >= len(shares[0]) + len(shares[1])


@pytest.mark.parametrize("key", ["partition-id", "num-partitions"])
def test_a_node_without_a_place_says_how_to_start_its_supernode(key):
    context = context_of(0)
    del context.node_config[key]
    with pytest.raises(RuntimeError, match=rf"{key} must be in .*; this node has none; .*--node-c"):
        receive(message(), context)


def test_a_message_cannot_name_a_node_s_files(tmp_path):
    file = tmp_path / "rows.csv"
    file.write_text("text,label\nsecret,a\nsecret,b\n")
    asked = message(**{"data-path": str(file), "own-rows": str(file)})
    asked.content["own-rows"] = ConfigRecord({"data-path": str(file)})
    (record,) = describe_rows(asked, context_of(0)).content.config_records.values()
    assert dict(record) == {"problem": "its node-config has no data-path"}
    with pytest.raises(ValueError, match="data-path must be a setting"):
        describe_rows(message(settings=json.dumps({"data-path": str(file)})), own_context(file))


def own_context(file):
    context = context_of(0)
    context.node_config["data-path"] = str(file)
    return context


def test_a_node_reports_numbers_and_classes_and_no_rows(tmp_path):
    file = tmp_path / "rows.csv"
    file.write_text("text,label\nsecret one,a\nsecret two,b\nsecret three,b\n")
    context = own_context(file)
    context.node_config["label-column"] = "label"
    content = describe_rows(message(), context).content
    (record,) = content.config_records.values()
    assert dict(record) == {"train": 3, "test": 0, "skipped": 0, "classes": ["a", "b"]}
    assert len(content) == 1


def test_a_later_message_cannot_make_a_node_read_another_file(tmp_path):
    file = tmp_path / "rows.csv"
    file.write_text("text,label\na,x\n" * 2)
    settings = json.dumps({"data.name": str(file), "data.classes": "x, y"})
    with pytest.raises(ValueError, match=r"data\.name must be a hub id, or empty, at nodes with"):
        load_node(message(settings=settings), own_context(file))

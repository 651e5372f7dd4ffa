"""The papers' own settings: each parses, and its graph, schedule and LoRA can be built.

Models are of the same architecture and tiny, with random weights: the hub is not needed.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from peft import TaskType
from transformers import RobertaConfig, RobertaForSequenceClassification

from flwr_decaf.clients.adapter import freeze_factors
from flwr_decaf.clients.pretrained import add_adapter
from flwr_decaf.comparison import runs_of
from flwr_decaf.config import parse_config
from flwr_decaf.lora import factor_of
from flwr_decaf.network import build_changing_network
from flwr_decaf.run import build_strategy, network_options
from flwr_decaf.run_folder import RunFolder
from flwr_decaf.run_settings import checked_settings
from flwr_decaf.strategies import Router

CONF = sorted((Path(__file__).parents[1] / "conf" / "paper").glob("*.toml"))
LAYERS, WIDTH = 2, 32


def tiny_roberta():
    return RobertaForSequenceClassification(
        RobertaConfig(
            vocab_size=50, hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=4,
            intermediate_size=64, num_labels=2,
        )
    )  # fmt: skip


@pytest.mark.parametrize("conf", CONF, ids=lambda path: path.stem)
def test_graph_schedule_and_adapter_can_be_built(conf, tmp_path):
    runs = runs_of(parse_config(checked_settings(conf, [], n=10)))
    assert len(runs) in (16, 54)  # 2 graphs x 2 K x 4 ranks; 3 methods x 3 seeds x 6 p
    for config in list(runs.values())[::5]:
        strategy = build_strategy(config, RunFolder(tmp_path))
        assert isinstance(strategy, Router)
        strategy.network = build_changing_network(n=10, **network_options(config))
        phases = {strategy.schedule(t).trains for t in range(1, 200)}
        expected = {"dec-lora": {"AB"}, "dlora": {"AB"}, "dlora-fa": {"B"}, "tad-lora": {"A", "B"}}
        assert phases == expected[config.strategy]
        model = add_adapter(tiny_roberta(), config.lora, TaskType.SEQ_CLS)
        freeze_factors(model, "AB", head=not config.train.freeze_head)
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        lora = sum(p.numel() for name, p in trained.items() if factor_of(name))
        # query and value of each layer: A is rank x width, B is width x rank
        assert lora == LAYERS * 2 * 2 * config.lora.rank * WIDTH
        assert any(factor_of(name) is None for name in trained) != config.train.freeze_head


def test_every_file_says_the_command_that_runs_it():
    for conf in CONF:
        assert f"flwr-decaf run conf/paper/{conf.name} --nodes 10" in conf.read_text()

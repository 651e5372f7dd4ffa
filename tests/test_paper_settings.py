"""The papers' own settings: each parses, and its graph, schedule and LoRA can be built.

Models have the same architecture but are tiny, with random weights, so the hub is not needed.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import PeftModel, TaskType, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from transformers import (
    CLIPConfig,
    CLIPModel,
    LlamaConfig,
    LlamaForCausalLM,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from flwr_decaf.app.run import build_strategy
from flwr_decaf.clients.freezing import freeze_factors
from flwr_decaf.clients.learning_rate import LEARNING_RATES
from flwr_decaf.clients.models.adapter import initialize_adapter
from flwr_decaf.clients.models.pretrained import add_adapter
from flwr_decaf.clients.tasks import cnn
from flwr_decaf.config import Lora, parse_config
from flwr_decaf.config.comparison import runs_of
from flwr_decaf.config.files import checked_settings
from flwr_decaf.config.network import network_of
from flwr_decaf.lora import factor_of
from flwr_decaf.runs.folder import RunFolder
from flwr_decaf.strategies import DecentralizedStrategy

CONF = sorted((Path(__file__).parents[1] / "conf" / "paper").glob("*.toml"))
CLIP = Path(__file__).parents[1] / "conf" / "paper" / "clip-flowers102.toml"
LAYERS, WIDTH = 2, 32


def tiny_roberta():
    return RobertaForSequenceClassification(
        RobertaConfig(
            vocab_size=50, hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=4,
            intermediate_size=64, num_labels=2,
        )
    )  # fmt: skip


def tiny_llama():
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=50, hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=4,
            intermediate_size=64,
        )
    )  # fmt: skip


def tiny_clip():
    size = {
        "hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": 4,
        "intermediate_size": 64,
    }  # fmt: skip
    text = {**size, "vocab_size": 50, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    vision = {**size, "image_size": 28, "patch_size": 14}
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16))


# how to build one, its kind for PEFT, and how many layers of it LoRA adapts
MODELS = {
    "text-classification": (tiny_roberta, TaskType.SEQ_CLS, LAYERS * 2),  # query, value
    "causal-lm": (tiny_llama, TaskType.CAUSAL_LM, LAYERS * 2),
    "clip": (tiny_clip, None, 2 * LAYERS * 3),  # two encoders; query, key, value
}
RUNS = {
    "dec-lora-roberta-sst2": 2 * 2 * 4,  # graphs, K, ranks
    "tad-lora-roberta-large-sst2": 3 * 3 * 6,  # methods, seeds, p
    "decaf-llama2-wic": 4 * 3 * 2,  # methods, graphs, IID or not
    "decaf-llama2-boolq": 4 * 3 * 2,
    "clip-flowers102": 3 * 3 * 3 * 2,  # methods, seeds, graphs, IID or not
    "clip-ucf101": 3 * 3 * 3 * 2,
    "clip-food101": 3 * 3 * 3 * 2,
    "dimat-resnet20-cifar100": 2 * 3 * 3 * 2,  # methods, seeds, graphs, IID or not
}
PHASES = {"dlora-fa": {"B"}, "tad-lora": {"A", "B"}}


@pytest.mark.parametrize("conf", CONF, ids=lambda path: path.stem)
def test_graph_schedule_and_adapter_can_be_built(conf, tmp_path):
    runs = runs_of(parse_config(checked_settings(conf, [], n=10)))
    assert len(runs) == RUNS[conf.stem]
    for config in list(runs.values())[::5]:
        strategy = build_strategy(config, RunFolder(tmp_path))
        if isinstance(strategy, DecentralizedStrategy):
            strategy.network = network_of(config, 10, strategy.graph.weights)
            phases = {strategy.schedule(t).trained for t in range(1, 200)}
            assert phases == PHASES.get(config.strategy, {"AB"})
        if config.model.task == "cnn":
            check_whole_model(config)
            continue
        build, task_type, adapted = MODELS[config.model.task]
        model = add_adapter(build(), config.lora, task_type)
        freeze_factors(model, "AB", head=not config.train.freeze_head)
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        lora = sum(p.numel() for name, p in trained.items() if factor_of(name))
        assert lora == adapted * 2 * config.lora.rank * WIDTH  # A rank x width, B width x rank
        has_head = config.model.task == "text-classification" and not config.train.freeze_head
        assert any(factor_of(name) is None for name in trained) == has_head


def check_whole_model(config):
    """By hand: 3 x 3 convolutions without biases, two parameters a unit of batch-norm."""
    model = cnn.MODELS[config.model.name](config.model, config.data, num_labels=100)
    w = config.model.width
    blocks = [(w, w)] * 3 + [(w, 2 * w), *[(2 * w, 2 * w)] * 2]
    blocks += [(2 * w, 4 * w), *[(4 * w, 4 * w)] * 2]
    inner = sum(9 * out * (into + out) + 4 * out for into, out in blocks)
    projections = sum(into * out + 2 * out for into, out in blocks if into != out)
    expected = 27 * w + 2 * w + inner + projections + 100 * (4 * w + 1)
    assert sum(p.numel() for p in model.parameters()) == expected


def test_every_file_says_the_command_that_runs_it():
    for conf in CONF:
        assert f"flwr-decaf run paper/{conf.stem} --nodes 10" in conf.read_text()


def test_every_file_lists_what_differs():
    for conf in CONF:
        header = conf.read_text().split("\nstrategy =")[0]
        listed = header.split("# Differences")[1].splitlines()[1:]
        assert listed[0].startswith("# * ")


@pytest.mark.parametrize("name", ["clip-flowers102", "clip-food101", "clip-ucf101"])
def test_clip_is_trained_as_the_authors_code_trains_it(name):
    conf = CLIP.with_name(f"{name}.toml")
    config = next(iter(runs_of(parse_config(checked_settings(conf, [], n=10))).values()))
    model = add_adapter(tiny_clip(), config.lora)
    scalings = {
        scaling
        for module in model.modules()
        if isinstance(module, LoraLayer)
        for scaling in module.scaling.values()
    }
    assert scalings == {1 / 2**0.5}  # alpha / sqrt(rank)
    assert config.data.augmentation == "random-resized-crop"
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.train.learning_rate)
    scheduler = LEARNING_RATES[config.train.schedule](optimizer, 7, config.num_server_rounds, 100)
    rates = [optimizer.param_groups[0]["lr"]]
    for _ in range(100):
        optimizer.step()
        scheduler.step()
        rates.append(optimizer.param_groups[0]["lr"])
    assert (rates[0], rates[-1]) == pytest.approx((2e-4, 1e-6))


def test_dimat_augments_splits_and_resets_as_the_authors_code_does():
    conf = CLIP.with_name("dimat-resnet20-cifar100.toml")
    runs = runs_of(parse_config(checked_settings(conf, [], n=10)))
    assert {run.data.partitioner for run in runs.values()} == {"stratified", "pathological"}
    assert {run.data.augmentation for run in runs.values()} == {"flip-shift"}
    assert {run.dimat.reset_batch_norm for run in runs.values()} == {"before-and-after"}


def test_clip_vit_b_16_has_720_kib_of_adapters():
    runs = runs_of(parse_config(checked_settings(CLIP, [], n=10)))
    config = CLIPConfig(vision_config={"patch_size": 16})  # widths 512 and 768, 12 layers each
    with torch.device("meta"):  # shapes alone: 600 MB otherwise
        model = add_adapter(CLIPModel(config), next(iter(runs.values())).lora)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trained == 184_320 == 12 * 3 * 2 * 2 * (512 + 768)
    assert trained * 4 == 720 * 1024  # bytes in fp32


def test_rslora_scales_by_the_root_of_the_rank_on_disk_as_well(tmp_path):
    lora = Lora(rank=4, alpha=8.0, target_modules="q_proj", use_rslora=True)
    model = add_adapter(tiny_llama(), lora, TaskType.CAUSAL_LM)
    initialize_adapter(model, seed=0)
    layer = model.base_model.model.model.layers[0].self_attn.q_proj
    torch.nn.init.normal_(layer.lora_B["default"].weight)
    given = torch.randn(3, WIDTH)
    state = get_peft_model_state_dict(model)
    a, b = (next(x for name, x in state.items() if factor_of(name) == f) for f in "AB")
    expected = layer.base_layer(given) + 8 / 2 * given @ a.T @ b.T  # alpha / sqrt(4)
    torch.testing.assert_close(layer(given), expected)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(model.unload(), tmp_path)
    again = loaded.base_model.model.model.layers[0].self_attn.q_proj
    torch.testing.assert_close(again(given), expected)

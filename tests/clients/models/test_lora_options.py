"""PEFT's options of an adapter: what is trained and exchanged, how it starts and how it loads."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from peft import PeftModel, TaskType
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, GPT2Config, GPT2LMHeadModel

from flwr_decaf.clients.models.adapter import get_adapter, initialize_adapter, set_adapter
from flwr_decaf.clients.models.pretrained import add_adapter
from flwr_decaf.clients.models.saving import added_to_base, save_model
from flwr_decaf.clients.optimizer_state import OptimizerState
from flwr_decaf.config import Lora
from flwr_decaf.lora import factor_of
from flwr_decaf.rules import average, factorize
from flwr_decaf.rules.ranks import at_rank
from tests.states import dense_products, lora_state

TARGETS = "query,value"
PATTERNS = {"rank_pattern": '{"layer.1.attention.self.query": 3}', "alpha_pattern": '{"value": 5}'}
OPTIONS = [
    {"bias": "all"},
    {"bias": "lora_only"},
    {"use_dora": True},
    PATTERNS,
    {"init_lora_weights": "gaussian"},
    {"init_lora_weights": "pissa"},
    {"init_lora_weights": "pissa_niter_4"},
    {"init_lora_weights": "olora"},
    {"init_lora_weights": "pissa", "use_rslora": True, **PATTERNS},
    {"init_lora_weights": "olora", "use_dora": True, "bias": "all"},
]


def bert():
    config = BertConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        vocab_size=30, max_position_embeddings=12, num_labels=3, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = BertForSequenceClassification(config)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter, std=0.1)
    return model


def adapted(base=None, **options):
    lora = Lora(rank=2, target_modules=TARGETS, **options)
    model = add_adapter(base or bert(), lora, TaskType.SEQ_CLS)
    initialize_adapter(model, seed=0)
    return model


TOKENS = torch.arange(20).reshape(2, 10)


def logits(model):
    with torch.no_grad():
        return model.eval()(input_ids=TOKENS).logits


def trained(model, factors="AB", seed=1):
    """Change every trained parameter, or only one of the factors, at random."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and (factor_of(name) or "AB") in factors:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=draw))
    return model


@pytest.mark.parametrize("options", OPTIONS)
def test_an_adapter_loads_on_the_original_base_with_the_same_outputs(options, tmp_path):
    model = trained(adapted(**options))
    save_model(model, tmp_path, "some/base")
    loaded = PeftModel.from_pretrained(bert(), tmp_path)
    assert loaded.peft_config["default"].base_model_name_or_path == "some/base"
    torch.testing.assert_close(logits(loaded), logits(model), atol=2e-5, rtol=1e-4)
    assert not torch.allclose(logits(model), logits(bert()), atol=1e-2)  # it was trained


@pytest.mark.parametrize("options", OPTIONS)
def test_everything_that_is_trained_is_exchanged_and_nothing_twice(options):
    model = adapted(**options)
    state = get_adapter(model)
    sent = {tensor.data_ptr(): name for name, tensor in state.items()}
    assert len(sent) == len(state)
    assert {p.data_ptr() for p in model.parameters() if p.requires_grad} == sent.keys()


@pytest.mark.parametrize("options", OPTIONS)
def test_the_initialization_depends_on_the_seed_only(options):
    model = adapted(**options)
    first = initialize_adapter(model, seed=3)
    trained(model)
    again, other = initialize_adapter(model, seed=3), initialize_adapter(adapted(**options), seed=3)
    assert all(torch.equal(x, again[k]) and torch.equal(x, other[k]) for k, x in first.items())


@pytest.mark.parametrize("options", OPTIONS)
def test_every_adapter_starts_with_the_function_of_its_base(options):
    base = bert()
    model = adapted(copy.deepcopy(base), **options)
    set_adapter(model, get_adapter(model) | {
        "base_model.model.classifier.weight": base.classifier.weight.detach(),
        "base_model.model.classifier.bias": base.classifier.bias.detach(),
    })  # fmt: skip
    torch.testing.assert_close(logits(model), logits(base), atol=1e-5, rtol=1e-4)


def test_ranks_and_scales_follow_the_patterns():
    model = adapted(**PATTERNS)
    shapes = {name: tuple(x.shape) for name, x in get_adapter(model).items() if factor_of(name)}
    ranks = {name: min(shape) for name, shape in shapes.items()}
    third = [name for name, rank in ranks.items() if rank == 3]
    assert all("layer.1.attention.self.query" in name for name in third)
    assert (len(third), sorted(set(ranks.values()))) == (2, [2, 3])
    value = model.base_model.model.bert.encoder.layer[0].attention.self.value
    query = model.base_model.model.bert.encoder.layer[1].attention.self.query
    assert (value.scaling["default"], query.scaling["default"]) == (5 / 2, 16 / 3)
    # Layers of different ranks are factorized in groups; equal states are a fixed point.
    state = get_adapter(trained(model))
    mixed = dense_products(factorize([state, state], [0.5, 0.5]))
    for layer, product in dense_products(state).items():
        torch.testing.assert_close(mixed[layer], product, atol=1e-6, rtol=1e-4)


def test_a_mix_of_pissa_adapters_adds_the_mean_of_their_updates_to_the_base():
    # All nodes subtract the same product from the base. With a common A, averages are exact.
    nodes = [
        {name: x.clone() for name, x in get_adapter(trained(model, "B", seed)).items()}
        for seed, model in enumerate(adapted(init_lora_weights="pissa") for _ in range(2))
    ]
    initial = adapted(init_lora_weights="pissa").initial_values
    updates = [dense_products(added_to_base(state, initial)) for state in nodes]
    for rule in (average, factorize):
        mixed = dense_products(added_to_base(rule(nodes, [0.5, 0.5]), initial))
        for layer, update in mixed.items():
            mean = (updates[0][layer] + updates[1][layer]) / 2
            torch.testing.assert_close(update, mean, atol=1e-6, rtol=1e-4)
            assert float(mean.norm()) > 0.1


def test_an_update_relative_to_its_start_worked_out_by_hand():
    state, initial = lora_state(0), lora_state(1)
    update = dense_products(added_to_base(state, initial))
    for layer, product in dense_products(state).items():
        torch.testing.assert_close(update[layer], product - dense_products(initial)[layer])
    key = "model.classifier.weight"
    assert torch.equal(added_to_base(state, initial)[key], state[key])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank_pattern": '{"layer.7": 3}'}, "lora.rank-pattern must match .*'layer.7'.*write e.g"),
        (
            {"rank_pattern": '{"value": 17}'},
            r"at most the shorter side .*; got 17, but .*value has",
        ),
        ({"alpha_pattern": '{"key": 2}'}, "lora.alpha-pattern must match adapted .*'key'"),
    ],
)
def test_patterns_that_do_not_fit_the_base_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        adapted(**options)


def test_biases_in_half_precision_are_refused():
    with pytest.raises(
        ValueError, match="lora.bias must be none .*; got 'all', but .* in bfloat16"
    ):
        adapted(bert().bfloat16(), bias="all")


@pytest.mark.parametrize("name", ["pissa", "olora"])
def test_factors_are_not_taken_from_layers_that_are_not_linear(name):
    config = GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=30, n_positions=12)
    lora = Lora(rank=2, target_modules="c_proj", init_lora_weights=name)
    with pytest.raises(ValueError, match=f"default or gaussian .*; got '{name}', but .* a Conv1D;"):
        add_adapter(GPT2LMHeadModel(config), lora, TaskType.CAUSAL_LM)


def test_factors_in_half_precision_are_taken_from_a_half_precision_base():
    model = adapted(bert().bfloat16(), init_lora_weights="pissa")
    assert {x.dtype for x in get_adapter(model).values()} == {torch.float32}


def test_a_saved_adapter_of_twice_the_rank_describes_itself(tmp_path):
    save_model(adapted(init_lora_weights="olora", **PATTERNS), tmp_path, "base")
    described = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (described["r"], described["lora_alpha"], described["init_lora_weights"]) == (
        4,
        32,
        True,
    )
    assert described["rank_pattern"] == {"layer.1.attention.self.query": 6}
    assert described["alpha_pattern"] == {"value": 10}


@pytest.mark.parametrize("options", [{}, {"use_rslora": True}, {"alpha_pattern": '{"value": 5}'}])
@pytest.mark.parametrize("rank", [1, 2])
def test_a_model_takes_over_the_rank_of_a_node_and_saves_it(rank, options, tmp_path):
    model, before = adapted(bert(), **options), adapted(bert(), **options)
    trained(model)
    lower = at_rank({name: x.clone() for name, x in get_adapter(model).items()}, rank)
    set_adapter(model, lower)
    expected = logits(model)
    trained(model)  # factors of the new rank get gradients and steps
    set_adapter(model, lower)
    save_model(model, tmp_path, "base")
    loaded = PeftModel.from_pretrained(bert(), tmp_path)
    torch.testing.assert_close(logits(loaded), expected)
    saved = json.loads((tmp_path / "adapter_config.json").read_text())
    assert saved["r"] == rank
    set_adapter(model, get_adapter(before))
    assert {n: x.shape for n, x in get_adapter(model).items()} == {
        n: x.shape for n, x in get_adapter(before).items()
    }
    torch.testing.assert_close(logits(model), logits(before))


def test_factors_of_another_rank_are_trained():
    model = adapted(bert())
    set_adapter(model, at_rank({n: x.clone() for n, x in get_adapter(model).items()}, 1))
    parameters = [p for name, p in model.named_parameters() if "lora_B" in name]
    model.train()(input_ids=TOKENS).logits.sum().backward()
    assert all(p.grad.shape == p.shape and p.shape[1] == 1 for p in parameters)
    assert all(p.grad.abs().sum() > 0 for p in parameters)


def test_moments_are_kept_by_nodes_of_different_ranks_that_share_a_model():
    model = adapted(bert())
    full = {name: x.clone() for name, x in get_adapter(model).items()}
    kept = {rank: OptimizerState({}, rotates=True) for rank in (1, 2)}
    for _ in range(2):  # rounds
        for rank, moments in kept.items():
            set_adapter(model, at_rank(full, rank))
            optimizer = torch.optim.AdamW(p for p in model.parameters() if p.requires_grad)
            moments.restore(optimizer, model)
            model.train()(input_ids=TOKENS, labels=torch.tensor([0, 1])).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            moments.store(optimizer, model)
    for rank, moments in kept.items():
        assert {float(x) for name, x in moments.state.items() if name.startswith("step ")} == {2.0}
        firsts = [x for name, x in moments.state.items() if "exp_avg " in name and "lora_A" in name]
        assert {len(x) for x in firsts} == {rank}

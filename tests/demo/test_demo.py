"""The demo data and encoders that make setup installs."""

from __future__ import annotations

import pytest
import torch
from datasets import load_dataset
from transformers import AutoModel

from demo.dual_encoder import canonical_correlation
from demo.fashion_mnist import members
from flwr_decaf.data.sources import resolve_path


def demo(name):
    return resolve_path(f"package:flwr_decaf_demo/{name}")


def test_emoji_are_complete_and_have_names():
    rows = load_dataset(demo("emoji"))
    assert {split: len(part) for split, part in rows.items()} == {"train": 1529, "test": 377}
    names = rows["train"].features["label"].names
    assert len(names) == 9
    category_of = {
        row["text"]: names[row["label"]] for row in rows["train"].select_columns(["text", "label"])
    }
    assert category_of["grinning face"] == "Smileys & Emotion"
    assert rows["test"][0]["image"].size == (64, 64)


def test_fashion_mnist_is_complete_and_balanced():
    rows = load_dataset(demo("fashion_mnist"))
    assert {split: len(part) for split, part in rows.items()} == {"train": 60_000, "test": 10_000}
    assert torch.tensor(rows["train"]["label"][:]).bincount().tolist() == [6000] * 10
    assert rows["test"][0]["image"].size == (28, 28)


def test_the_encoder_distinguishes_images():
    model = AutoModel.from_pretrained(demo("vit-small")).eval()
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(22e6, rel=0.02)
    with torch.no_grad():
        black, noise = model(
            torch.stack([torch.zeros(3, 42, 42), torch.randn(3, 42, 42)])
        ).pooler_output
    assert torch.cosine_similarity(black, noise, dim=0) < 0.9


def test_a_deb_is_an_archive_of_members_at_even_offsets():
    def member(name, content):
        header = f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode()
        return header + content + b"\n" * (len(content) % 2)

    packed = (
        b"!<arch>\n" + member("debian-binary", b"2.0\n") + member("odd/", b"abc") + member("z", b"")
    )
    assert members(packed) == {"debian-binary": b"2.0\n", "odd": b"abc", "z": b""}


def test_canonical_correlation_finds_the_shared_component():
    torch.manual_seed(0)
    shared = torch.randn(4000, 1)
    x = torch.cat([shared + 0.1 * torch.randn(4000, 1), torch.randn(4000, 2)], dim=1)
    y = torch.cat([torch.randn(4000, 2), -shared], dim=1)
    p, q = canonical_correlation(x, y)
    first = (x.double() @ p[0]), (y.double() @ q[0])
    assert torch.corrcoef(torch.stack(first))[0, 1] > 0.98
    # The first direction puts little weight on what is not shared.
    assert p[0, 0].abs() > 10 * p[0, 1:].abs().max()
    assert q[0, 2].abs() > 10 * q[0, :2].abs().max()

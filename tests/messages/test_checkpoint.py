from __future__ import annotations

import pytest
import torch

from flwr_decaf.messages.checkpoint import (
    Checkpoint,
    Letter,
    NodeProgress,
    load_checkpoint,
    save_checkpoint,
)
from flwr_decaf.messages.packing import pack, unpack
from tests.states import lora_state


def checkpoint(server_round=3):
    posts = {node: pack(lora_state(10 * server_round + node)) for node in range(3)}
    older = pack(lora_state(99))  # node 2 was last sent mail when node 0 had posted this
    mail = {
        0: Letter((0.5, 0.25, 0.25), {1: posts[1], 2: posts[2]}),
        2: Letter((0.75, 0.25), {0: older}),
    }
    progress = {
        0: NodeProgress(4, 10.0, (2,), {1: pack(lora_state(98))}),
        2: NodeProgress(0, 0.0, (), {}),
    }
    return Checkpoint(server_round, posts, mail, pending=frozenset({2}), progress=progress)


def same(first, second):
    return first.keys() == second.keys() and all(
        first[k].data == second[k].data and first[k].stype == second[k].stype for k in first
    )


def test_a_checkpoint_comes_back_as_it_was(tmp_path):
    saved = checkpoint()
    save_checkpoint(tmp_path / "c", saved)
    back = load_checkpoint(tmp_path / "c")
    assert back.server_round == 3
    assert same(back.posts, saved.posts)
    assert back.mail.keys() == saved.mail.keys()
    assert back.pending == {2}
    for node, done in saved.progress.items():
        assert back.progress[node][:3] == done[:3]
        assert same(back.progress[node].late, done.late)
    for node, letter in saved.mail.items():
        assert back.mail[node].weights == letter.weights
        assert same(back.mail[node].posts, letter.posts)
    state = unpack(back.posts[1])
    assert all(torch.equal(x, state[name]) for name, x in lora_state(31).items())


def test_the_last_two_are_kept_and_a_post_is_written_once(tmp_path):
    for server_round in (1, 2, 3, 10):
        save_checkpoint(tmp_path, checkpoint(server_round))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["round-00003", "round-00010"]
    file = tmp_path / "round-00010" / "posts.safetensors"
    one = len(pack(lora_state(0)).data)
    # Three posts, an older one in the mail and one that is late, not seven.
    assert 5 * one <= file.stat().st_size < 6 * one
    assert load_checkpoint(tmp_path).server_round == 10


@pytest.mark.parametrize("file", ["mail.json", "posts.safetensors", "digest"])
@pytest.mark.parametrize("damage", ["changed", "cut", "gone"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path, caplog, file, damage):
    for server_round in (1, 2):
        save_checkpoint(tmp_path, checkpoint(server_round))
    victim = tmp_path / "round-00002" / file
    data = bytearray(victim.read_bytes())
    if damage == "gone":
        victim.unlink()
    elif damage == "cut":
        victim.write_bytes(data[: len(data) // 2])
    else:
        data[len(data) // 2] ^= 1
        victim.write_bytes(data)
    assert load_checkpoint(tmp_path).server_round == 1
    assert "round-00002 is damaged" in caplog.text


def test_a_damaged_checkpoint_is_replaced_when_its_round_comes_again(tmp_path):
    save_checkpoint(tmp_path, checkpoint(2))
    (tmp_path / "round-00002" / "mail.json").write_text("{")
    assert load_checkpoint(tmp_path) is None
    save_checkpoint(tmp_path, checkpoint(2))
    assert load_checkpoint(tmp_path).server_round == 2


def test_damaged_checkpoints_of_later_rounds_do_not_crowd_out_good_ones(tmp_path):
    for server_round in (7, 8):
        save_checkpoint(tmp_path, checkpoint(server_round))
        (tmp_path / f"round-{server_round:05d}" / "digest").write_text("")
    save_checkpoint(tmp_path, checkpoint(1))
    save_checkpoint(tmp_path, checkpoint(2))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["round-00001", "round-00002"]


def test_no_checkpoint(tmp_path):
    assert load_checkpoint(tmp_path) is None
    (tmp_path / ".saving-x").mkdir()  # what a kill in the middle of writing leaves
    assert load_checkpoint(tmp_path) is None

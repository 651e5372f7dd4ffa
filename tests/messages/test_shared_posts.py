from __future__ import annotations

import pytest
import torch
from flwr.app import Array, ArrayRecord

from flwr_decaf.messages.checkpoint import load_checkpoint, save_checkpoint
from flwr_decaf.messages.packing import pack, pack_shared, unpack
from flwr_decaf.messages.shared_posts import POSTS_VARIABLE, is_gone, sweep
from flwr_decaf.strategies import DeCAF, DLoRAFA
from tests.apps.drifting import drifting
from tests.local_grid import LocalGrid
from tests.states import lora_state


@pytest.fixture
def folder(tmp_path, monkeypatch):
    posts = tmp_path / "posts"
    posts.mkdir()
    monkeypatch.setenv(POSTS_VARIABLE, str(posts))
    return posts


def test_a_shared_post_is_read_back_to_the_bit(folder):
    state = lora_state(0, dtype=torch.bfloat16)
    ticket = pack_shared(state)
    back = unpack(ticket)
    assert list(back) == list(state)
    assert all(torch.equal(back[name], state[name]) for name in state)
    assert len(ticket.data) == 32
    assert [file.name for file in folder.iterdir()] == [ticket.data.decode()]


def test_a_post_that_is_read_can_be_written_to_without_harm_to_the_file(folder):
    ticket = pack_shared({"x": torch.zeros(3)})
    unpack(ticket)["x"].fill_(7)
    assert unpack(ticket)["x"].tolist() == [0, 0, 0]


def test_without_a_folder_a_post_travels_as_it_is(monkeypatch):
    monkeypatch.delenv(POSTS_VARIABLE, raising=False)
    post = pack_shared(lora_state(0))
    assert post == pack(lora_state(0))
    assert not is_gone(post)


def test_without_room_a_post_travels_as_it_is(folder):
    folder.rmdir()
    assert pack_shared(lora_state(0)) == pack(lora_state(0))


@pytest.mark.parametrize("data", [b"../" * 10 + b"xx", b"/etc/hostname", b"", b"A" * 32])
def test_other_strings_than_tickets_are_refused(folder, data):
    with pytest.raises(ValueError, match="needs a well-formed ticket"):
        unpack(Array(dtype="uint8", shape=(len(data),), stype="safetensors-ticket", data=data))


def test_a_ticket_means_nothing_where_there_is_no_folder(folder, monkeypatch):
    ticket = pack_shared(lora_state(0))
    monkeypatch.delenv(POSTS_VARIABLE)
    with pytest.raises(ValueError, match="needs a well-formed ticket"):
        unpack(ticket)


def test_unused_files_are_deleted(folder):
    kept, gone = (pack_shared(lora_state(seed)) for seed in range(2))
    sweep([kept, pack(lora_state(2))])
    assert not is_gone(kept)
    assert is_gone(gone)
    with pytest.raises(ValueError, match="cannot be read"):
        unpack(gone)


@pytest.mark.parametrize("strategy", [DeCAF, DLoRAFA])
def test_a_run_comes_out_the_same_and_keeps_only_what_is_needed(folder, monkeypatch, strategy):
    shared = run(strategy)
    assert 0 < len(list(folder.iterdir())) <= 2 * 4  # each node's last post, and the last mail
    monkeypatch.delenv(POSTS_VARIABLE)
    plain = run(strategy)
    for node, state in plain.items():
        assert all(torch.equal(state[name], shared[node][name]) for name in state)


def run(strategy, on_round=lambda grid, reached: None):
    grid = LocalGrid(drifting, 4)
    relay = strategy("ring", evaluate_every=2, on_round=lambda reached: on_round(grid, reached))
    relay.start(grid, ArrayRecord(lora_state(0)), num_rounds=4)
    return relay.collect(grid)


def test_a_node_whose_own_was_swept_away_gets_its_last_post_again(folder):
    def take_away(grid, reached):
        if reached.server_round == 3:  # not evaluated: all hold what they posted
            own = grid.contexts[grid.ids[1]].state["decaf.own"]["safetensors"]
            assert not is_gone(own)
            nowhere = Array(own.dtype, own.shape, own.stype, data=b"0" * 32)
            grid.contexts[grid.ids[1]].state["decaf.own"] = ArrayRecord({"safetensors": nowhere})

    disturbed, plain = run(DeCAF, take_away), run(DeCAF)
    assert disturbed.keys() == plain.keys()
    for node, state in plain.items():
        assert all(torch.equal(state[name], disturbed[node][name]) for name in state)


def test_a_checkpoint_holds_the_posts_themselves(folder, tmp_path, monkeypatch):
    reached = {}

    def keep(checkpoint):
        save_checkpoint(tmp_path / "checkpoint", checkpoint)
        reached.update({node: unpack(post) for node, post in checkpoint.posts.items()})

    relay = DeCAF("ring", evaluate_every=0, on_round=keep)
    relay.start(LocalGrid(drifting, 3), ArrayRecord(lora_state(0)), num_rounds=2)
    monkeypatch.delenv(POSTS_VARIABLE)
    kept = load_checkpoint(tmp_path / "checkpoint")
    for node, state in reached.items():
        back = unpack(kept.posts[node])
        assert all(torch.equal(back[name], state[name]) for name in state)

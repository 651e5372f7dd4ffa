from __future__ import annotations

import os
import socket
import time

import fsspec
import pytest
import torch
from flwr.app import Array

from flwr_decaf.messages.packing import PACKED, STORED, pack, packed, unpack
from flwr_decaf.messages.post_store import PostStore, new_box
from tests.messages.stores import limited_file_size, s3_server, use_s3_at
from tests.states import lora_state

POSTS = [pack(lora_state(seed)) for seed in range(3)]
SECONDS = 60.0


@pytest.fixture(params=["folder", "s3"])
def root(request, tmp_path, monkeypatch):
    if request.param == "folder":
        (tmp_path / "store [1]").mkdir()
        yield str(tmp_path / "store [1]")
    else:
        with s3_server(monkeypatch) as url:
            yield url


def names_in(root):
    system, path = fsspec.core.url_to_fs(root)
    system.invalidate_cache()
    found = system.ls(path, detail=False) if system.exists(path) else []
    return {name.rpartition("/")[2] for name in found}


def test_posts_come_back_to_the_bit_and_leave_nothing(root):
    store, other = (PostStore(root, new_box(), SECONDS) for _ in range(2))
    tickets = store.put(POSTS)
    assert all(ticket.stype == STORED and len(ticket.data) < 120 for ticket in tickets)
    assert store.get(tickets) == POSTS
    kept = other.put(POSTS[:1])
    assert len(names_in(root)) == 4
    store.delete(tickets[:1])
    assert store.get(tickets) == [tickets[0], *POSTS[1:]]
    store.clear()
    assert {name.partition("-")[0] for name in names_in(root)} == {other.box}
    assert other.get(kept) == POSTS[:1]
    other.clear()
    other.clear()
    assert not names_in(root)
    store.probe()
    assert not names_in(root)


def test_a_ticket_is_not_a_post(root):
    (ticket,) = PostStore(root, new_box(), SECONDS).put(POSTS[:1])
    with pytest.raises(ValueError, match="not in the store, damaged there, or could not be read"):
        unpack(ticket)


def test_a_damaged_post_stays_a_ticket(root, caplog):
    store = PostStore(root, new_box(), SECONDS)
    tickets = store.put(POSTS)
    system, path = fsspec.core.url_to_fs(root)
    damaged, cut = (f"{path}/{ticket.data.decode().partition(' ')[0]}" for ticket in tickets[:2])
    system.pipe_file(damaged, POSTS[1].data)
    system.pipe_file(cut, POSTS[1].data[:100])
    assert store.get(tickets) == [*tickets[:2], POSTS[2]]
    assert "it is damaged" in caplog.text


def hostile(text):
    return Array(dtype="uint8", shape=(len(text),), stype=STORED, data=text)


def test_a_ticket_cannot_choose_a_path(tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "secret").write_bytes(b"x")
    store = PostStore(str(tmp_path / "store"), new_box(), SECONDS)
    (good,) = store.put(POSTS[:1])
    name, _, length = good.data.partition(b" ")
    other = new_box().encode()
    for text in (
        b"../secret 1", b"/etc/hostname 9", name, name + b" -1", b"../" + good.data,
        good.data + b"\n", other + name[16:] + b" " + length, b"", name.upper() + b" 9",
    ):  # fmt: skip
        assert store.get([hostile(text)]) == [hostile(text)]
        store.delete([hostile(text)])
    assert store.get([good]) == POSTS[:1]
    assert (tmp_path / "secret").exists()


@pytest.mark.parametrize("box", ["", "../" * 5 + "x", "A" * 16, "0" * 15, "0" * 16 + "\n"])
def test_a_box_cannot_choose_a_path(box, tmp_path):
    with pytest.raises(ValueError, match="must be 16 hexadecimal digits"):
        PostStore(str(tmp_path), box, SECONDS)


def test_a_root_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ValueError, match="must be an existing folder"):
        PostStore(str(tmp_path / "not mounted"), new_box(), SECONDS)
    assert not (tmp_path / "not mounted").exists()
    with pytest.raises(ValueError, match=r"got 'nosuch' .*pip install 'flwr-decaf\[s3\]'"):
        PostStore("nosuch://bucket", new_box(), SECONDS)


def test_a_bucket_that_is_not_there_is_refused_without_the_secret(monkeypatch, caplog):
    with s3_server(monkeypatch):
        store = PostStore("s3://no-such-bucket/x", new_box(), SECONDS)
        with pytest.raises(ValueError, match="posts.store must be a store that this") as error:
            store.probe()
    assert "bucket does not exist" in caplog.text
    assert "of-a-key" not in caplog.text + str(error.value)


def test_what_does_not_fit_into_a_full_store_travels_in_the_message(tmp_path, caplog):
    store = PostStore(str(tmp_path), new_box(), SECONDS)
    small, large = packed(b"small"), packed(bytes(200_000))
    with limited_file_size(100_000):
        sent = store.put([small, large])
    assert [array.stype for array in sent] == [STORED, PACKED]
    assert sent[1] is large
    assert "A post cannot be written: OSError: [Errno 27] File too large" in caplog.text
    assert len(list(tmp_path.iterdir())) == 1  # no unfinished file either


def test_a_read_that_hangs_ends_at_the_limit(tmp_path, caplog):
    store = PostStore(str(tmp_path), new_box(), 1.0)
    tickets = store.put(POSTS)
    file = tmp_path / tickets[0].data.decode().partition(" ")[0]
    file.unlink()
    os.mkfifo(file)  # opening it waits for a writer
    started = time.monotonic()
    assert store.get(tickets) == [tickets[0], *POSTS[1:]]
    assert 0.9 < time.monotonic() - started < 20
    assert "cannot be read in time; see posts.store-timeout" in caplog.text


def test_a_server_that_never_answers_ends_at_the_limit(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        use_s3_at(f"http://127.0.0.1:{silent.getsockname()[1]}", monkeypatch)
        store = PostStore("s3://bucket/x", new_box(), 1.0)
        assert store.put(POSTS) == POSTS
        with pytest.raises(ValueError, match="posts.store must be a store"):
            store.probe()
        store.clear()


def test_posts_of_other_dtypes_keep_theirs(tmp_path):
    state = lora_state(0, dtype=torch.bfloat16)
    store = PostStore(str(tmp_path), new_box(), SECONDS)
    (back,) = store.get(store.put([pack(state)]))
    assert all(torch.equal(x, state[name]) for name, x in unpack(back).items())

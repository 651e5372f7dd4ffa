"""Posts that the processes of a machine share, as long as the relay needs them."""

from __future__ import annotations

from flwr_decaf.messages.shared_posts import POSTS_VARIABLE, share
from flwr_decaf.strategies.relay.post_office import InMessages


def test_a_shared_post_whose_reply_is_under_way_is_kept(tmp_path, monkeypatch):
    monkeypatch.setenv(POSTS_VARIABLE, str(tmp_path))
    office = InMessages()
    old, new, on_its_way = (share(lambda file: file.write_bytes(b"post")) for _ in range(3))

    def left():
        return {file.name.encode() for file in tmp_path.iterdir()}

    office.sweep([old], under_way=True)
    office.sweep([new], under_way=True)  # which replaces the old one
    assert left() == {new.data, on_its_way.data}
    office.sweep([on_its_way])
    assert left() == {on_its_way.data}

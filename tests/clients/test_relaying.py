from __future__ import annotations

import pytest

from flwr_decaf.clients.relaying import messages_of
from flwr_decaf.messages.mail import Mail
from tests.states import lora_state


def test_encrypted_runs_forward_nothing_even_if_the_relay_asks_for_it(tmp_path, monkeypatch):
    monkeypatch.setenv("FLWR_DECAF_POSTS", str(tmp_path))
    mail = Mail("average", "AB", "AB", recipients=(1, 2), nodes=3)
    assert len(messages_of(lora_state(0), mail)) == 2
    written = list(tmp_path.iterdir())
    assert written
    encrypted = Mail("average", "AB", "AB", recipients=(1, 2), nodes=3, sealed=True)
    with pytest.raises(ValueError, match="posts.encryption must be none for posts that are forw"):
        messages_of(lora_state(1), encrypted)
    assert list(tmp_path.iterdir()) == written

"""What a relay that changes messages achieves against nodes that encrypt their posts."""

from __future__ import annotations

import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from flwr_decaf.cli.keys import write_keys
from flwr_decaf.clients import peer_mixing
from flwr_decaf.clients.own_keys import identity_of
from flwr_decaf.messages.packing import pack, packed
from flwr_decaf.strategies import DLoRA, FedAvg
from tests.apps.drifting import drifting, train
from tests.keys import keyed_grid, models_of, node_config
from tests.local_grid import LocalGrid
from tests.states import lora_state
from tests.strategies.sealed_runs import (
    N,
    TamperingGrid,
    assert_same,
    plain,
    run,
)


def attacked(keys, change, reason, place=1, at=3):
    """Run with posts to one node changed in one round; return the causes of refused posts."""
    grid, causes, history = keyed_grid(drifting, keys, N, TamperingGrid), [], {}

    def tamper(grid, node, content):
        if node != place or "decaf.posts" not in content:
            return
        t, posts = content["config"]["server-round"], content["decaf.posts"]
        history[t] = dict(posts.items())
        if t == at:
            content["decaf.posts"] = ArrayRecord(change(history[t], history))

    grid.tamper = tamper
    _, result = run(
        DLoRA, grid, evaluate_every=0,
        on_failure=lambda t, node, cause: causes.append((t, node, cause)),
    )  # fmt: skip
    assert causes, "nothing was refused"
    assert all(t == at and reason in cause for t, _, cause in causes), causes
    # The other node of each edge, and later rounds, are as ever.
    assert result.train_metrics_clientapp[at + 1]["mixing-refused"] == 0
    return {node for _, node, _ in causes}


def flipped(post):
    data = bytearray(post.data)
    data[-100] ^= 1
    return packed(bytes(data))


@pytest.mark.parametrize(
    ("change", "reason", "senders"),
    [
        (lambda posts, _: {**posts, "0": flipped(posts["0"])}, "its signature is not", {0}),
        (lambda posts, _: {"0": posts["2"], "2": posts["0"]}, "its signature is not", {0, 2}),
        (lambda _, history: history[2], "it is of exchange 1, and this node has posted", {0, 2}),
        (lambda posts, _: {**posts, "2": packed(posts["2"].data[:99])}, "it is truncated", {2}),
        (lambda posts, _: {**posts, "2": pack(lora_state(9))}, "it is not encrypted", {2}),
    ],
    ids=["tampered", "swapped", "replayed", "truncated", "plain"],
)  # fmt: skip
def test_a_post_that_the_relay_changes_is_a_missing_neighbour(
    change, reason, senders, keys, caplog
):
    assert attacked(keys, change, reason) == senders
    assert all(f"The post of node {sender} is refused: it" in caplog.text for sender in senders)


def test_posts_of_another_run_are_refused(keys):
    kept = []
    run(DLoRA, keyed_grid(drifting, keys, N), on_round=kept.append, evaluate_every=0)
    other = {str(node): post for node, post in kept[1].posts.items() if node in (0, 2)}
    assert attacked(keys, lambda posts, _: other, "it is of another run") == {0, 2}


def test_mail_that_has_been_mixed_is_not_mixed_again(keys):
    """The relay repeats the posts of the evaluation with the next training."""
    grid, causes, sent = keyed_grid(drifting, keys, N, TamperingGrid), [], {}

    def repeat(grid, place, content):
        if place == 1 and "decaf.posts" in content:
            sent.update(posts=content["decaf.posts"], mail=content["decaf.mail"])
        elif place == 1 and content.get("config", {}).get("server-round") == 3:
            for key in ("weights", "senders"):
                content["decaf.mail"][key] = sent["mail"][key]
            content["decaf.posts"] = sent["posts"]

    grid.tamper = repeat
    run(DLoRA, grid, on_failure=lambda t, node, cause: causes.append((t, node, cause)))
    assert {(t, node) for t, node, _ in causes} == {(3, 0), (3, 2)}
    assert all("mixed exchange 2" in cause for *_, cause in causes)
    assert_same(models_of(grid), plain(DLoRA)[0])


def test_a_post_is_not_sealed_for_a_key_that_the_relay_puts_in(keys, tmp_path, caplog):
    write_keys(tmp_path / "relay", N)
    own = identity_of(node_config(tmp_path / "relay", 2, N)).announcement
    grid, causes = keyed_grid(drifting, keys, N, TamperingGrid), []

    def put_in(grid, place, content):
        if place == 1 and "decaf.sealing" in content and "decaf.mail" in content:
            record = content["decaf.sealing"]
            others = dict(zip(record["readers"], record["announcements"], strict=True))
            record["announcements"] = list((others | {2: own}).values())

    grid.tamper = put_in
    run(
        DLoRA, grid, evaluate_every=0, rounds=2,
        on_failure=lambda t, node, cause: causes.append((node, cause)),
    )  # fmt: skip
    assert "The post is not sealed for node 2: this node's file of allowed" in caplog.text
    assert set(causes) == {(1, "node 2 refused its post: it is not sealed for this node")}


class TestKeys:
    def test_a_key_that_the_file_does_not_list_is_refused_at_the_roll_call(self, tmp_path):
        grid = keyed_grid(drifting, tmp_path / "keys", N)
        write_keys(tmp_path / "other", N)
        grid.contexts[grid.ids[2]].node_config["posts-key"] = str(tmp_path / "other" / "node-2")
        with pytest.raises(RuntimeError, match="posts-key must be the key that .* for node-2"):
            run(DLoRA, grid)
        # With a file of its own, only its neighbours can tell.
        signers = str(tmp_path / "other" / "allowed_signers")
        grid.contexts[grid.ids[2]].node_config["posts-allowed-signers"] = signers
        why = r"node \d does not accept .*node \d: this node's file of .* another key for node-2"
        with pytest.raises(RuntimeError, match=why):
            run(DLoRA, grid)
        assert not any("arrays" in message.content for message in grid.sent)

    def test_first_use_is_trusted_only_on_request_and_said(self, tmp_path, caplog):
        grid = keyed_grid(drifting, tmp_path / "keys", N)
        for context in grid.contexts.values():
            del context.node_config["posts-allowed-signers"]
        with pytest.raises(RuntimeError, match="posts-allowed-signers must be in the node-config"):
            run(DLoRA, grid)
        for context in grid.contexts.values():
            context.node_config["posts-trust"] = "first-use"
        run(DLoRA, grid)
        assert caplog.text.count("trusted on first use") == 2 * N
        assert_same(models_of(grid), plain(DLoRA)[0])

    def test_a_second_key_is_not_trusted_on_first_use(self, tmp_path):
        grid = keyed_grid(drifting, tmp_path / "keys", N)
        write_keys(tmp_path / "other", N)
        for context in grid.contexts.values():
            del context.node_config["posts-allowed-signers"]
            context.node_config["posts-trust"] = "first-use"
        run(DLoRA, grid)
        grid.contexts[grid.ids[2]].node_config["posts-key"] = str(tmp_path / "other" / "node-2")
        with pytest.raises(RuntimeError, match="another key for node-2"):
            run(DLoRA, grid)

    def test_nodes_without_keys_are_refused(self):
        with pytest.raises(RuntimeError, match="posts-key must be in .* at node 0, 1, 2, 3;"):
            run(DLoRA, LocalGrid(drifting, N))

    @pytest.mark.parametrize("strategy", [DLoRA, FedAvg])
    def test_a_node_with_a_key_never_posts_in_the_clear(self, strategy, keys):
        grid = keyed_grid(drifting, keys, N)
        more = {"num_rounds": 1} if strategy is FedAvg else {}
        relay = strategy(evaluate_every=0, **more)
        with pytest.raises(RuntimeError, match="posts.encryption must be x25519 for nodes with"):
            relay.start(grid, ArrayRecord(lora_state(0)), num_rounds=1)

    @pytest.mark.parametrize("missing", [["mail"], ["sealing"], ["mail", "sealing"]])
    @pytest.mark.parametrize("ask", ["", "anything", "mix", "collect", "check-keys"])
    def test_nor_with_a_message_that_lacks_a_record(self, missing, ask, keys):
        grid = keyed_grid(drifting, keys, N)
        run(DLoRA, grid, rounds=1)
        message = next(m for m in grid.sent if "arrays" in m.content)
        context = grid.contexts[message.metadata.dst_node_id]
        for name in missing:
            del message.content[f"decaf.{name}"]
        if ask:
            message.content["decaf.call"] = ConfigRecord({"ask": ask})
        if ask == "check-keys" and missing == ["mail"]:  # the mod answers it
            assert not drifting(message, context).content.array_records
        else:
            with pytest.raises(ValueError, match="posts.encryption must be x25519 for nodes with"):
                drifting(message, context)


def test_arrays_of_an_evaluate_function_do_not_leave_the_node(keys):
    app = ClientApp(mods=[peer_mixing])
    app.train()(train)

    @app.evaluate()
    def evaluate(msg, context):
        content = {"arrays": msg.content["arrays"], "metrics": MetricRecord({"num-examples": 1})}
        return Message(RecordDict(content), reply_to=msg)

    with pytest.raises(RuntimeError, match="must return no arrays with posts.encryption"):
        run(DLoRA, keyed_grid(app, keys, N))


def test_nothing_is_written_to_a_shared_folder(keys, tmp_path, monkeypatch):
    monkeypatch.setenv("FLWR_DECAF_POSTS", str(tmp_path))
    grid = keyed_grid(drifting, keys, N)
    run(DLoRA, grid)
    assert not list(tmp_path.iterdir())

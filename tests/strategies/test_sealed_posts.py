"""Runs whose posts only neighbours can read: the same results, and attacks by the relay."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, MetricRecord

from flwr_decaf.config import Posts
from flwr_decaf.messages.checkpoint import load_checkpoint, save_checkpoint
from flwr_decaf.messages.packing import SEALED, pack, packed
from flwr_decaf.strategies import DeCAF, DLoRA, DLoRAFA, FedAvg, LocalOnly, RelaySum
from flwr_decaf.strategies.centralized import Centralized
from tests.apps.drifting import drifting
from tests.keys import keyed_grid, models_of
from tests.local_grid import LocalGrid
from tests.states import lora_state

N, ROUNDS = 4, 4
SEALED_POSTS = Posts(encryption="x25519")


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    return tmp_path_factory.mktemp("keys")


class TamperingGrid(LocalGrid):
    """Lets a test see and change what the relay sends: ``tamper(grid, place, content)``."""

    tamper = staticmethod(lambda grid, place, content: None)

    def _call(self, message):
        self.tamper(self, self.place_of(message), message.content)
        return super()._call(message)


def run(strategy, grid, topology="ring", posts=SEALED_POSTS, rounds=ROUNDS, n=N, **options):
    arguments = () if strategy is LocalOnly else (topology,)
    relay = strategy(*arguments, posts=posts, **options)
    result = relay.start(grid, ArrayRecord(lora_state(0)), num_rounds=rounds)
    return relay.collect(grid), result


def plain(strategy, n=N, **options):
    grid = LocalGrid(drifting, n)
    states, result = run(strategy, grid, posts=Posts(options.pop("dtype", "fp32")), **options)
    return states, result


def assert_same(first, second):
    assert first.keys() == second.keys()
    for node, state in first.items():
        assert list(state) == list(second[node])
        assert all(torch.equal(x, second[node][name]) for name, x in state.items())


@pytest.mark.parametrize(
    ("strategy", "dtype", "options"),
    [
        (DeCAF, "fp32", {}),
        (DLoRAFA, "fp32", {"evaluate_every": 0}),
        (DLoRA, "fp32", {"mixing_steps": 2, "dynamic": "random-matching"}),
        (DLoRA, "fp32", {"robust": "trimmed-mean", "topology": "complete"}),
        (DLoRA, "bf16", {"drop_probability": 0.3}),
        (DLoRA, "int8", {"on_round": lambda reached: None}),  # with exact copies
        (LocalOnly, "fp32", {}),
    ],
)
def test_the_models_are_those_of_posts_that_anyone_can_read(strategy, dtype, options, keys):
    expected, told = plain(strategy, dtype=dtype, **options)
    grid = keyed_grid(drifting, keys, N)
    states, result = run(strategy, grid, posts=Posts(dtype, encryption="x25519"), **options)
    assert not states
    assert not result.arrays
    assert_same(models_of(grid), expected)
    for t, record in told.train_metrics_clientapp.items():
        ours = result.train_metrics_clientapp[t]
        for key in ("mixing-neighbours", "mixing-refused"):
            assert ours[key] == record[key]
        assert "distance-to-mean" not in ours


@pytest.mark.parametrize("n", [1, 2, 3])
def test_small_networks(n, tmp_path):
    expected, _ = plain(DLoRA, n=n)
    grid = keyed_grid(drifting, tmp_path / "keys", n)
    run(DLoRA, grid)
    assert_same(models_of(grid), expected)


def test_no_message_contains_a_value_that_a_node_has_trained(keys):
    replies = []

    class Recording(LocalGrid):
        def _call(self, message):
            replies.append(super()._call(message))
            return replies[-1]

    grid = keyed_grid(drifting, keys, N, grid=Recording)
    run(DLoRA, grid)
    trained = {
        x.numpy().tobytes()[:16] for state in models_of(grid).values() for x in state.values()
    }
    arrays = [
        a
        for m in (*grid.sent, *replies)
        for r in m.content.array_records.values()
        for a in r.values()
    ]
    sealed = [a for a in arrays if a.stype == SEALED]
    assert len(sealed) > N * ROUNDS
    assert len(arrays) - len(sealed) == N * len(lora_state(0))  # the initial ones, once per node
    assert not any(part in a.data for a in sealed for part in trained)


def test_metrics_are_the_bytes_that_travel_and_the_distance_to_neighbours(keys):
    seen = []
    grid = keyed_grid(drifting, keys, N)
    _, result = run(DLoRA, grid, rounds=2, on_round=seen.append)
    sizes = {len(post.data) for post in seen[0].posts.values()}
    plain_size = len(pack(lora_state(0)).data)
    assert sizes == {plain_size + 153 + 52 * 3}
    assert result.train_metrics_clientapp[1]["bytes-sent"] == 2 * sizes.pop()
    # Node i moves B and the head by i + 1; A, too. Before the first mix, node i and its neighbours
    # on the ring hold the initial state plus i + 1.
    start = lora_state(0)

    def model(i):
        moved = {name: x + i + 1 for name, x in start.items()}
        products = [
            (moved[f"model.{k}.lora_B.weight"] @ moved[f"model.{k}.lora_A.weight"]).flatten()
            for k in ("q", "v", "up")
        ]
        return torch.cat([*products, moved["model.classifier.weight"].flatten()])

    distances = [
        np.mean([float((model(i) - model(j)).norm()) for j in ((i - 1) % N, (i + 1) % N)])
        for i in range(N)
    ]
    measured = result.evaluate_metrics_clientapp[1]["distance-to-neighbours"]
    assert measured == pytest.approx(np.mean(distances))


@pytest.mark.parametrize("dtype", ["fp32", "int8"])
@pytest.mark.parametrize("stop", [1, 3, 4])
def test_a_run_resumes_from_a_checkpoint_of_sealed_posts(dtype, stop, keys, tmp_path):
    posts, folder = Posts(dtype, encryption="x25519"), tmp_path / "checkpoint"

    def keep(reached):
        if reached.server_round == stop:
            save_checkpoint(folder, reached)

    whole = keyed_grid(drifting, keys, N)
    run(DeCAF, whole, posts=posts, on_round=keep)
    data = b"".join(file.read_bytes() for file in folder.rglob("*") if file.is_file())
    states = [x.numpy().tobytes()[:16] for s in models_of(whole).values() for x in s.values()]
    assert not any(part in data for part in states)
    resumed = keyed_grid(drifting, keys, N)
    run(DeCAF, resumed, posts=posts, resume_from=load_checkpoint(folder), on_round=lambda _: None)
    assert_same(models_of(resumed), models_of(whole))


@pytest.mark.parametrize(("was", "now"), [("x25519", "none"), ("none", "x25519")])
def test_a_run_resumes_only_as_it_was_encrypted(was, now, keys):
    kept = []
    grid = keyed_grid(drifting, keys, N) if was == "x25519" else LocalGrid(drifting, N)
    run(DLoRA, grid, posts=Posts(encryption=was), rounds=1, on_round=kept.append)
    with pytest.raises(
        ValueError, match=f"posts.encryption must be that of the .* {was}; got {now}"
    ):
        run(DLoRA, LocalGrid(drifting, N), posts=Posts(encryption=now), resume_from=kept[0])


def forget(place):
    def tamper(grid, node, content):
        if node == place and content.get("config", {}).get("server-round") == 3:
            grid.contexts[grid.ids[place]].state.pop("decaf.own", None)
            grid.tamper = lambda *_: None

    return tamper


def test_a_node_that_lost_its_state_gets_its_sealed_post_back(keys):
    grids = [keyed_grid(drifting, keys, N, TamperingGrid), TamperingGrid(drifting, N)]
    for grid, posts in zip(grids, (SEALED_POSTS, Posts()), strict=True):
        grid.tamper = forget(1)
        run(DLoRA, grid, posts=posts)
    assert_same(models_of(grids[0]), models_of(grids[1]))


def test_a_node_that_answers_late_is_set_back_to_its_last_post(keys):
    grids = [keyed_grid(drifting, keys, N, TamperingGrid), TamperingGrid(drifting, N)]
    for grid, posts in zip(grids, (SEALED_POSTS, Posts()), strict=True):

        def be_late(grid, place, content):
            if place == 2 and content.get("config", {}).get("server-round") == 2:
                grid.late = {2: 1}
                grid.tamper = lambda *_: None

        grid.tamper = be_late
        run(DLoRA, grid, posts=posts, evaluate_every=0)
    assert_same(models_of(grids[0]), models_of(grids[1]))


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
    from flwr_decaf.cli.keys import write_keys
    from flwr_decaf.clients.own_keys import identity_of
    from tests.keys import node_config

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
        from flwr_decaf.cli.keys import write_keys

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
        from flwr_decaf.cli.keys import write_keys

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

    def test_nor_with_a_message_without_mail(self, keys):
        grid = keyed_grid(drifting, keys, N, TamperingGrid)
        grid.tamper = lambda grid, place, content: content.pop("decaf.mail", None)
        with pytest.raises(RuntimeError, match="posts.encryption must be x25519 for nodes with"):
            run(DLoRA, grid)


def test_arrays_of_an_evaluate_function_do_not_leave_the_node(keys):
    from flwr.app import Message, RecordDict
    from flwr.clientapp import ClientApp

    from flwr_decaf.clients import peer_mixing
    from tests.apps.drifting import train

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


@pytest.mark.parametrize(
    ("strategy", "options", "error"),
    [
        (RelaySum, {}, "posts.encryption must be none with relay-sum"),
        (DLoRA, {"sign_flipping": 1}, "attack.sign-flipping must be 0 with posts.encryption"),
        (FedAvg, {"num_rounds": 1}, "posts.encryption must be none with fedavg and centralized"),
        (Centralized, {"num_rounds": 1}, "posts.encryption must be none with fedavg"),
    ],
)
def test_what_needs_readable_posts_is_refused(strategy, options, error):
    with pytest.raises(ValueError, match=error):
        strategy(posts=SEALED_POSTS, **options)


def test_the_average_is_not_scored(keys):
    grid = keyed_grid(drifting, keys, N)
    relay = DLoRA(posts=SEALED_POSTS)
    with pytest.raises(ValueError, match="evaluate-average .* must not be set with posts.encryp"):
        relay.start(
            grid, ArrayRecord(lora_state(0)), num_rounds=1, evaluate_fn=lambda *_: MetricRecord()
        )
    assert not grid.sent

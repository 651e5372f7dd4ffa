from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict

from flwr_decaf.clients import peer_mixing, peer_mixing_with
from flwr_decaf.clients.mixing import mix
from flwr_decaf.lora import select
from flwr_decaf.matching import Matching, find_groups, permuted
from flwr_decaf.messages import records
from flwr_decaf.messages.mail import Mail, put_mail, take_mail
from flwr_decaf.messages.packing import pack, pack_record, unpack_record
from tests.matching.models import build, draw, logits, pictures, state_of
from tests.states import lora_state

OWN, OTHER = lora_state(1), lora_state(2)


def context(own=None):
    state = RecordDict({records.OWN: pack_record(own)} if own else {})
    return Context(0, 0, {"partition-id": 3, "num-partitions": 5, "path": "/data"}, state, {})


def message(mail=None, **records):
    content = RecordDict({"config": ConfigRecord({"server-round": 1}), **records})
    if mail:
        put_mail(content, mail)
    return Message(content, dst_node_id=0, message_type="train")


def mail(trained="AB", exchanged="AB", neighbour=OTHER, rule="average", **options):
    posts = {4: pack(select(neighbour, exchanged))}
    return Mail(rule, trained, exchanged, weights=(0.75, 0.25), posts=posts, **options)


def returning(change=lambda state: state, **records):
    """A train function that returns what it was given, after a change."""

    def train(msg, ctx):
        arrays = ArrayRecord(change(dict(msg.content["arrays"].to_torch_state_dict())))
        metrics = MetricRecord({"num-examples": 7})
        return Message(RecordDict({"arrays": arrays, "metrics": metrics, **records}), reply_to=msg)

    return train


def plus_one(names):
    return lambda state: {k: x + 1 if names in k else x for k, x in state.items()}


def test_a_message_without_mail_passes_through_untouched():
    seen = {}

    def train(msg, ctx):
        seen.update(msg.content.items())
        return Message(RecordDict({"arrays": msg.content["arrays"]}), reply_to=msg)

    ctx = context()
    arrays = ArrayRecord(OWN)
    reply = peer_mixing(message(arrays=arrays), ctx, train)
    assert sorted(seen) == ["arrays", "config"]
    assert list(reply.content) == ["arrays"]
    assert not ctx.state


def test_the_user_s_function_finds_the_mix_and_its_result_becomes_the_node_s_own():
    ctx, found = context(OWN), {}

    def train(msg, ctx):
        found.update(msg.content["arrays"].to_torch_state_dict())
        assert sorted(msg.content) == ["arrays", "config"]  # the mail is out of the way
        return returning(plus_one("lora"))(msg, ctx)

    reply = peer_mixing(message(mail()), ctx, train)
    for name, x in found.items():
        torch.testing.assert_close(x, 0.75 * OWN[name] + 0.25 * OTHER[name])
    kept = unpack_record(ctx.state[records.OWN])
    posted = unpack_record(reply.content[records.POST])
    for name, x in found.items():
        assert torch.equal(kept[name], x + 1 if "lora" in name else x)
        assert torch.equal(posted[name], kept[name])
    assert "arrays" not in reply.content
    metrics = reply.content["metrics"]
    assert (metrics["num-examples"], metrics["mixing-neighbours"]) == (7, 1.0)
    assert metrics["mixing-interference"] > 0


def test_only_what_travels_is_posted_and_what_did_not_travel_is_kept():
    frozen_a = {k: x for k, x in OWN.items() if "lora_A" in k}
    ctx = context(OWN)
    post = mail("B", "B", OTHER, rule="frozen")
    reply = peer_mixing(message(post), ctx, returning(plus_one("lora_B")))
    assert not any("lora_A" in name for name in unpack_record(reply.content[records.POST]))
    kept = unpack_record(ctx.state[records.OWN])
    assert all(torch.equal(kept[name], x) for name, x in frozen_a.items())


def test_a_factor_that_is_frozen_must_not_move():
    ctx = context(OWN)
    with pytest.raises(ValueError, match=r"lora_A.*frozen in this round.*freeze_factors"):
        peer_mixing(message(mail(trained="B")), ctx, returning(plus_one("lora")))


def test_without_neighbours_the_node_keeps_its_own_to_the_bit():
    half = lora_state(1, dtype=torch.float16)
    held, metrics, _ = mix(half, Mail("factorize", "AB", "AB"))
    assert all(torch.equal(held[name], x) for name, x in half.items())
    assert metrics["mixing-neighbours"] == 0


def test_arrays_beside_the_mail_set_the_node_s_own_anew():
    ctx = context(OTHER)
    peer_mixing(message(Mail("average", "AB", "AB"), arrays=ArrayRecord(OWN)), ctx, returning())
    kept = unpack_record(ctx.state[records.OWN])
    assert all(torch.equal(kept[name], x) for name, x in OWN.items())


def test_record_names_of_the_user_s_own():
    ctx = context(OWN)

    def train(msg, ctx):
        return Message(RecordDict({"model": msg.content["model"]}), reply_to=msg)

    reply = peer_mixing(message(mail(arrays_key="model")), ctx, train)
    assert list(reply.content) == [records.POST, "metrics"]


def test_a_node_that_lost_its_model_says_so_instead_of_training():
    reply = peer_mixing(message(mail()), context(), lambda *_: pytest.fail("it trained"))
    assert dict(reply.content[records.CALL]) == {"lost": True}
    assert list(reply.content) == [records.CALL]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda state: {k: x for k, x in state.items() if "classifier" not in k}, "only one of"),
        (lambda state: {k: x.float() for k, x in state.items()}, r"must be \(3, 9\) torch.float64"),
        (lambda state: {k: x.T.contiguous() for k, x in state.items()}, r"got \(9, 3\)"),
    ],
)
def test_a_train_function_must_return_what_it_was_given(change, complaint):
    with pytest.raises(ValueError, match=f"what the train function returned.*{complaint}"):
        peer_mixing(message(mail()), context(OWN), returning(change))


def test_a_train_function_must_return_one_array_record():
    with pytest.raises(ValueError, match=r"exactly one ArrayRecord.*\['arrays', 'more'\]"):
        peer_mixing(message(mail()), context(OWN), returning(more=ArrayRecord(OWN)))


def damaged(kind):
    name = "model.q.lora_A.weight"
    return {
        "shape": {**OTHER, name: torch.zeros(2, 9, dtype=torch.float64)},
        "dtype": {**OTHER, name: OTHER[name].float()},
        "keys": {k: x for k, x in OTHER.items() if k != name},
        "NaN": {**OTHER, name: OTHER[name] * float("nan")},
        "infinity": {**OTHER, name: OTHER[name] / 0},
        "norm": {k: 1e4 * x for k, x in OTHER.items()},
    }[kind]


@pytest.mark.parametrize("kind", ["shape", "dtype", "keys", "NaN", "infinity", "norm"])
def test_a_post_that_cannot_be_used_is_left_out_and_named(kind):
    held, metrics, refused = mix(OWN, mail(neighbour=damaged(kind)))
    assert all(torch.equal(held[name], x) for name, x in OWN.items())  # all weight is its own
    assert (metrics["mixing-neighbours"], metrics["mixing-refused"]) == (0, 1)
    assert list(refused) == [4]
    assert {"keys": "same tensors", "NaN": "NaN or inf", "infinity": "NaN or inf"}.get(
        kind, "must be" if kind != "norm" else "factor of 100"
    ) in refused[4]
    reply = peer_mixing(message(mail(neighbour=damaged(kind))), context(OWN), returning())
    assert reply.content["decaf.refused"]["senders"] == [4]


def test_the_weight_of_a_refused_post_goes_to_the_own():
    third = (1 / 3, 1 / 3, 1 / 3)
    posts = {4: pack(OTHER), 7: pack(damaged("NaN"))}
    held, _, refused = mix(OWN, Mail("average", "AB", "AB", weights=third, posts=posts))
    assert list(refused) == [7]
    for name, x in OWN.items():
        torch.testing.assert_close(held[name], x * 2 / 3 + OTHER[name] / 3)


def test_bytes_that_are_no_post_are_refused():
    posts = {4: replace(pack(OTHER), data=b"no safetensors at all")}
    _, _, refused = mix(OWN, Mail("average", "AB", "AB", weights=(0.5, 0.5), posts=posts))
    assert "cannot be read" in refused[4]


def test_integer_buffers_survive():
    own = {"w": torch.zeros(2), "batches": torch.tensor(5)}
    other = {"w": torch.ones(2), "batches": torch.tensor(9)}
    ctx = context(own)
    peer_mixing(message(mail(neighbour=other)), ctx, returning())
    kept = unpack_record(ctx.state[records.OWN])
    assert kept["w"].tolist() == [0.25, 0.25]
    assert (kept["batches"].item(), kept["batches"].dtype) == (5, torch.int64)


def test_the_roll_call_is_answered_without_the_user_s_function():
    content = RecordDict({records.CALL: ConfigRecord({"ask": records.ROLL_CALL})})
    msg = Message(content, dst_node_id=0, message_type="train")
    reply = peer_mixing(msg, context(), lambda *_: pytest.fail("the user's function was called"))
    # nothing else of the node's configuration leaves it
    assert dict(reply.content[records.CALL]) == {"partition-id": 3, "num-partitions": 5}


def test_the_mix_does_not_depend_on_the_number_of_threads():
    # Large enough for PyTorch to share the work out, which changes the bits.
    states = [lora_state(k, 8, {"up": (3072, 768)}, torch.float32) for k in range(3)]
    own, posts = states[0], {k: pack(state) for k, state in enumerate(states) if k}
    letter = Mail("factorize", "AB", "AB", weights=(1 / 3, 1 / 3, 1 / 3), posts=posts)
    before = torch.get_num_threads()
    mixed = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        mixed.append(mix(own, letter)[0])
        assert torch.get_num_threads() == threads
    torch.set_num_threads(before)
    assert all(torch.equal(mixed[0][name], mixed[1][name]) for name in own)


class TestAligning:
    def peers(self):
        """A node, a neighbour with the same units in another order, and the client's part."""
        model = build("resnet-20")
        groups = find_groups(model, pictures(2))
        part = Matching(model, groups, [pictures(seed=seed) for seed in (1, 2)])
        own = part.settle(state_of(model))
        return model, own, permuted(own, groups, draw(groups)), part

    def test_a_neighbour_in_another_order_changes_nothing(self):  # invariant 14, through the mod
        model, own, neighbour, part = self.peers()
        found, asked = {}, []

        def train(msg, ctx):
            found.update(msg.content["arrays"].to_torch_state_dict())
            return returning()(msg, ctx)

        def prepare(msg, ctx):
            asked.append(msg.content["config"]["server-round"])
            assert records.POSTS not in msg.content
            return part

        sent = message(mail(neighbour=neighbour, rule="matched"))
        reply = peer_mixing_with(prepare)(sent, context(own), train)
        torch.testing.assert_close(logits(model, found), logits(model, own))
        assert asked == [1]
        assert reply.content["metrics"]["matching-seconds"] > 0
        averaged, metrics, _ = mix(own, mail(neighbour=neighbour))  # and without matching
        assert float((logits(model, averaged) - logits(model, own)).abs().max()) > 0.1
        assert "matching-seconds" not in metrics

    def test_nothing_is_prepared_where_nothing_is_aligned(self):
        asked = []
        for sent in (mail(), Mail("matched", "AB", "AB")):
            mod = peer_mixing_with(lambda msg, ctx: asked.append(msg))
            mod(message(sent), context(OWN), returning())
        assert not asked

    def test_a_mod_that_cannot_align_says_so(self):
        with pytest.raises(ValueError, match=r"mods=\[peer_mixing_with"):
            peer_mixing(message(mail(rule="matched")), context(OWN), returning())


@pytest.mark.parametrize("rule", ["average", "factorize"])
def test_a_local_head_is_left_out_of_the_mix(rule):
    local, _, _ = mix(OWN, mail(rule=rule, local_head=True))
    mixed, _, _ = mix(OWN, mail(rule=rule))
    for name, x in local.items():
        expected = OWN if name == "model.classifier.weight" else mixed
        assert torch.equal(x, expected[name])
    assert not torch.equal(mixed["model.classifier.weight"], OWN["model.classifier.weight"])
    content = RecordDict()
    put_mail(content, mail(local_head=True))
    assert take_mail(content).local_head

from __future__ import annotations

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict

from flwr_decaf.clients import peer_mixing, peer_mixing_with
from flwr_decaf.clients.mixing import mix
from flwr_decaf.matching import Matching, find_groups, permuted
from flwr_decaf.messages import records
from flwr_decaf.messages.mail import Mail, put_mail, take_mail
from flwr_decaf.messages.packing import pack_record, unpack_record
from tests.clients.letters import OTHER, OWN, damaged, mail
from tests.matching.models import build, draw, logits, pictures, state_of


def context(own=None):
    state = RecordDict({records.OWN: pack_record(own)} if own else {})
    return Context(0, 0, {"partition-id": 3, "num-partitions": 5, "path": "/data"}, state, {})


def message(mail=None, **records):
    content = RecordDict({"config": ConfigRecord({"server-round": 1}), **records})
    if mail:
        put_mail(content, mail)
    return Message(content, dst_node_id=0, message_type="train")


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


def test_arrays_sent_with_the_mail_replace_the_node_s_own():
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


def test_the_reply_names_the_senders_of_refused_posts():
    reply = peer_mixing(message(mail(neighbour=damaged("NaN"))), context(OWN), returning())
    assert reply.content["decaf.refused"]["senders"] == [4]


def test_a_local_head_is_part_of_the_mail():
    content = RecordDict()
    put_mail(content, mail(local_head=True))
    assert take_mail(content).local_head


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

"""Posts that were exchanged for the previous post of the node that mixes them."""

from __future__ import annotations

import pytest
import torch

from flwr_decaf.clients.mixing import mix, row_without_refused
from flwr_decaf.messages.mail import PREVIOUS, Mail
from flwr_decaf.messages.packing import pack, packed
from flwr_decaf.messages.quantization import dequantize, quantize
from tests.states import dense_products, lora_state, share_a

SHAPES = {"q": (4, 6), "v": (5, 4)}  # of full rank, so that products are mixed without truncation
OWN, BEFORE, LATE, NOW = (lora_state(i, 4, SHAPES) for i in range(4))


def mail_of(rule, dtype="fp32", late=LATE, previous=BEFORE, **options):
    posts = {7: now_of(rule), 3: late, PREVIOUS: previous}
    sent = {j: pack(quantize(x, dtype, seed=j)) for j, x in posts.items()}
    return Mail(
        rule, "AB", "AB", weights=(0.75, 0.25, 0.5, -0.5), posts=sent, late=(3,), dtype=dtype,
        measured=False, **options,
    )  # fmt: skip


def now_of(rule):
    return share_a([OWN, NOW])[1] if rule == "frozen" else NOW


@pytest.mark.parametrize("rule", ["average", "matched"])
def test_tensors_move_by_the_difference_of_the_posts_that_were_exchanged(rule):
    mixed, metrics, refused = mix(OWN, mail_of(rule))
    assert not refused
    assert metrics["mixing-neighbours"] == 2
    for name, x in OWN.items():
        expected = x + 0.25 * (NOW[name] - x) + 0.5 * (LATE[name] - BEFORE[name])
        torch.testing.assert_close(mixed[name], expected)


def test_products_move_by_the_difference_of_the_products():
    mixed, *_ = mix(OWN, mail_of("factorize"))
    own, before, late, now, got = map(dense_products, (OWN, BEFORE, LATE, NOW, mixed))
    for layer, x in own.items():
        expected = x + 0.25 * (now[layer] - x) + 0.5 * (late[layer] - before[layer])
        torch.testing.assert_close(got[layer], expected)


def test_a_frozen_a_stays_and_b_moves():
    own, before, late, now = share_a([OWN, BEFORE, LATE, NOW])
    mixed, *_ = mix(own, mail_of("frozen", late=late, previous=before))
    for name, x in own.items():
        expected = x + 0.25 * (now[name] - x) + 0.5 * (late[name] - before[name])
        torch.testing.assert_close(mixed[name], x if "lora_A" in name else expected)


def test_rounding_errors_of_both_posts_cancel_in_the_mean():
    seen = {
        j: dequantize(quantize(x, "int8", seed=j), "int8", like=x)
        for j, x in ((7, NOW), (3, LATE), (PREVIOUS, BEFORE), (5, OWN))
    }
    mixed, *_ = mix(OWN, mail_of("average", "int8", rounded=5))
    for name, x in OWN.items():
        now, late, before, own = (seen[j][name] for j in (7, 3, PREVIOUS, 5))
        torch.testing.assert_close(mixed[name], x + 0.25 * (now - own) + 0.5 * (late - before))


def scaled(state, factor):
    return {name: factor * x for name, x in state.items()}


def test_a_late_post_is_compared_with_the_post_that_it_was_exchanged_for():
    large, larger = scaled(LATE, 30.0), scaled(BEFORE, 30.0)  # products of 900 times the norm
    _, _, refused = mix(OWN, mail_of("average", late=large))
    assert "beyond a factor of 100" in refused[3]
    _, _, refused = mix(OWN, mail_of("average", late=large, previous=larger))
    assert not refused


@pytest.mark.parametrize(
    ("changed", "cause"),
    [({"late": scaled(LATE, 1e4)}, "beyond a factor"), ({"previous": {}}, "own previous post: ")],
)
def test_without_a_late_post_the_previous_one_is_not_subtracted(changed, cause):
    mixed, metrics, refused = mix(OWN, mail_of("average", **changed))
    assert refused.keys() == {3}
    assert cause in refused[3]
    assert metrics["mixing-neighbours"] == 1
    for name, x in OWN.items():
        torch.testing.assert_close(mixed[name], x + 0.25 * (NOW[name] - x))


def test_the_weight_of_the_previous_post_is_that_of_the_late_ones_that_are_left():
    posts = dict.fromkeys((1, 2, 3, PREVIOUS), packed(b""))
    mail = Mail(
        "average", "AB", "AB", weights=(0.75, 0.25, 0.25, 0.125, -0.375), posts=posts, late=(2, 3)
    )
    assert row_without_refused(mail, {1: {}, 3: {}, PREVIOUS: {}}) == [0.75, 0.25, 0.125, -0.125]
    assert row_without_refused(mail, {2: {}, 3: {}, PREVIOUS: {}}) == [1.0, 0.25, 0.125, -0.375]

"""Mixing of quantized posts: what is kept exactly, and what the rules see."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from flwr_decaf.clients.mixing import mix
from flwr_decaf.lora import select
from flwr_decaf.messages.mail import Mail
from flwr_decaf.messages.packing import pack
from flwr_decaf.messages.quantization import dequantize, quantize
from flwr_decaf.rules import RULES
from flwr_decaf.topology.mixing_matrix import build_mixing_matrix
from tests.states import lora_state, share_a


def mixed_by_all(states, w, dtype, rule="average", exchanged="AB", **options):
    """Let every node of a network mix once, as the relay would have it."""
    posts = [
        pack(quantize(select(state, exchanged), dtype, seed=node))
        for node, state in enumerate(states)
    ]
    held = []
    for node, state in enumerate(states):
        neighbours = [int(j) for j in np.flatnonzero(w[node]) if j != node]
        mail = Mail(
            rule,
            "AB",
            exchanged,
            weights=tuple(float(w[node, j]) for j in (node, *neighbours)),
            posts={j: posts[j] for j in neighbours},
            dtype=dtype,
            rounded=node,
            **options,
        )
        held.append(mix(state, mail))
    return held


def as_seen(states, dtype, exchanged="AB"):
    return [
        s | dequantize(quantize(select(s, exchanged), dtype, node), dtype, select(s, exchanged))
        for node, s in enumerate(states)
    ]


@pytest.mark.parametrize("n", [1, 2, 3, 5])
@pytest.mark.parametrize("dtype", ["bf16", "int8"])
@pytest.mark.parametrize(("rule", "exchanged"), [("average", "AB"), ("frozen", "B")])
def test_averages_over_the_nodes_stay_what_they_were(n, dtype, rule, exchanged):
    states = share_a([lora_state(node) for node in range(n)])
    mixed = mixed_by_all(states, build_mixing_matrix("ring", n), dtype, rule, exchanged)
    held = [state for state, _, _ in mixed]
    for name in states[0]:
        before, after = (sum(s[name] for s in group) for group in (states, held))
        torch.testing.assert_close(after, before, atol=1e-13, rtol=0)


def test_a_node_keeps_its_residual():
    states, w = [lora_state(node) for node in range(3)], build_mixing_matrix("path", 3)
    seen = as_seen(states, "int8")
    held = mixed_by_all(states, w, "int8")
    for name, own in states[0].items():
        expected = own + 1 / 3 * (seen[1][name] - seen[0][name])  # x_i + sum w_ij (Q_j - Q_i)
        torch.testing.assert_close(held[0][0][name], expected, atol=1e-14, rtol=0)
    assert not torch.equal(held[0][0][name], sum(w[0, j] * seen[j][name] for j in range(3)))


def test_decaf_factorizes_its_own_product_exactly_and_averages_the_head():
    states, w = [lora_state(node) for node in range(2)], build_mixing_matrix("complete", 2)
    seen = as_seen(states, "int8")
    held, _, _ = mixed_by_all(states, w, "int8", rule="factorize")[0]
    expected = RULES["factorize"]([states[0], seen[1]], [0.5, 0.5])
    head = "model.classifier.weight"
    expected[head] = states[0][head] + 0.5 * (seen[1][head] - seen[0][head])
    for name, x in expected.items():
        torch.testing.assert_close(held[name], x, atol=1e-14, rtol=0)


@pytest.mark.parametrize("robust", ["clipping", "trimmed-mean"])
def test_robust_rules_take_the_own_state_exactly(robust):
    states, w = [lora_state(node) for node in range(4)], build_mixing_matrix("complete", 4)
    exact = mixed_by_all(states, w, "fp32", robust=robust)[0][0]
    coarse = mixed_by_all(states, w, "int8", robust=robust)[0][0]
    alone = mixed_by_all([states[0], *as_seen(states, "int8")[1:]], w, "fp32", robust=robust)[0][0]
    for name in states[0]:
        assert torch.equal(coarse[name], alone[name])
        torch.testing.assert_close(coarse[name], exact[name], atol=0.3, rtol=0)


def test_half_precision_stays_half():
    states = [lora_state(node, dtype=torch.float16) for node in range(2)]
    for held, _, _ in mixed_by_all(states, build_mixing_matrix("ring", 2), "int8"):
        for name, x in held.items():
            mean = (states[0][name].float() + states[1][name].float()) / 2
            assert x.dtype == torch.float16
            torch.testing.assert_close(x.float(), mean, atol=0.05, rtol=0)


def test_integers_and_what_was_not_exchanged_are_kept():
    own = {"w": torch.rand(2, 8), "batches": torch.tensor(5)}
    other = {"w": torch.rand(2, 8), "batches": torch.tensor(9)}
    held, _, _ = mixed_by_all([own, other], build_mixing_matrix("ring", 2), "int8")[0]
    assert held["batches"] == 5
    states = share_a([lora_state(0), lora_state(1)])
    for rule in ("average", "frozen"):
        found = mixed_by_all(states, build_mixing_matrix("ring", 2), "int8", rule, exchanged="B")[
            0
        ][0]
        assert all(torch.equal(found[k], x) for k, x in states[0].items() if "lora_A" in k)


def test_the_interference_of_dlora_fa_is_zero_for_quantized_posts_too():
    states = share_a([lora_state(node) for node in range(3)])
    for _, metrics, _ in mixed_by_all(
        states, build_mixing_matrix("ring", 3), "int8", "frozen", exchanged="B"
    ):
        assert metrics["mixing-interference"] < 1e-6


def test_both_ends_of_an_edge_decide_alike_about_an_outlier():
    base, w = lora_state(1), build_mixing_matrix("complete", 2)
    refusing = set()
    for factor in np.linspace(9.97, 10.03, 61):  # of A and B: the product is 100 times as large
        states = [base, {k: x * (factor if ".lora_" in k else 100) for k, x in base.items()}]
        ends = [list(refused) for _, _, refused in mixed_by_all(states, w, "int8")]
        assert ends in ([[], []], [[1], [0]])
        refusing.add(bool(ends[0]))
    assert refusing == {True, False}


def test_a_node_that_was_given_its_post_back_holds_what_it_posted():
    states, w = [lora_state(node) for node in range(2)], build_mixing_matrix("complete", 2)
    seen = as_seen(states, "int8")
    posts = {1: pack(quantize(states[1], "int8", seed=1))}
    mail = Mail("average", "AB", "AB", weights=(0.5, 0.5), posts=posts, dtype="int8")
    held, _, _ = mix(seen[0], mail)
    for name in seen[0]:
        torch.testing.assert_close(held[name], (seen[0][name] + seen[1][name]) / 2)
    assert mail == replace(mail, rounded=-1)
    assert w[0, 1] == 0.5

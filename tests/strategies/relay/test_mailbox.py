from __future__ import annotations

import numpy as np
import torch
from flwr.app import RecordDict

from flwr_decaf.messages.mail import Mail, take_mail
from flwr_decaf.messages.packing import pack
from flwr_decaf.strategies.relay.mailbox import Mailbox
from flwr_decaf.topology.mixing_matrix import build_mixing_matrix
from flwr_decaf.topology.rows import rows_of_matrix

RING = rows_of_matrix(build_mixing_matrix("ring", 4))
POSTS = {node: pack({"x": torch.tensor([float(node)])}) for node in range(4)}


def mailbox(n=4):
    start = {"x": torch.zeros(1), "a": torch.ones(1)}
    return Mailbox([start] * n, Mail("average", "AB", "AB", "model"))


def read(box, node):
    content = RecordDict()
    box.lay_into(content, node, trained="A", exchanged="AB")
    return take_mail(content), content


def test_initial_arrays_until_the_node_has_started():
    box = mailbox()
    for _ in range(2):  # the first call failed: they go out again
        mail, content = read(box, 0)
        assert list(content) == ["model"]
        assert not mail.posts
    box.delivered(0)
    assert not read(box, 0)[1]


def test_posts_go_to_the_neighbours_once_with_their_row_of_w():
    box = mailbox()
    box.collect(POSTS, RING)
    mail, _ = read(box, 1)
    assert dict(mail.posts) == {0: POSTS[0], 2: POSTS[2]}
    np.testing.assert_allclose(mail.weights, 1 / 3)
    assert (mail.trained, mail.exchanged, mail.rule) == ("A", "AB", "average")
    assert read(box, 1)[0].posts  # not struck off yet
    box.delivered(1)
    assert not read(box, 1)[0].posts
    assert read(box, 1)[0].weights == (1.0,)


def test_a_node_that_missed_a_round_still_gets_its_old_mail():
    box = mailbox()
    box.collect(POSTS, RING)
    left = {node: post for node, post in POSTS.items() if node != 2}
    box.collect(left, RING.without({2}))
    assert set(read(box, 2)[0].posts) == {1, 3}  # of the round before, which it has not had
    assert set(read(box, 1)[0].posts) == {0}
    np.testing.assert_allclose(read(box, 1)[0].weights, [2 / 3, 1 / 3])


def test_a_node_that_lost_its_state_gets_its_last_post_and_its_last_mail_again():
    box = mailbox()
    box.collect(POSTS, RING)
    box.delivered(3)
    box.lost(3)
    mail, content = read(box, 3)
    back = content["model"].to_torch_state_dict()
    assert (back["x"].item(), back["a"].item()) == (3.0, 1.0)  # a never travelled
    assert set(mail.posts) == {0, 2}
    box.delivered(3)
    mail, content = read(box, 3)
    assert not content
    assert not mail.posts


def test_a_node_lost_before_its_first_post_starts_again():
    box = mailbox()
    box.delivered(0)
    box.lost(0)
    mail, content = read(box, 0)
    assert content["model"].to_torch_state_dict()["x"].item() == 0.0
    assert not mail.posts


def test_a_newcomer_gets_the_post_of_a_node_and_not_its_exact_copy():
    box = mailbox()
    copies = {1: pack({"x": torch.tensor([1.25])})}  # node 1 posts 1 instead
    box.collect(POSTS, RING, copies=copies)
    box.adopt(3, 1)
    mail, content = read(box, 3)
    assert content["model"].to_torch_state_dict()["x"] == 1
    assert mail.posts == read(box, 1)[0].posts
    assert mail.rounded == -1
    assert read(box, 1)[1]["model"].to_torch_state_dict()["x"] == 1.25

"""Forwarding what a node has received to each neighbour in a tree (RelaySum, arXiv 2110.04175).

    m_(i->j) = (x_i + sum_(k != j) c_(k->i) m_(k->i)) / c_(i->j)
    c_(i->j) = 1 + sum_(k != j) c_(k->i)

x_i is what node i has just trained, and m_(k->i) the last message that it has received from its
neighbour k: the mean of c_(k->i) models. The paper sends sums and counts; means have the scale of a
model, so they can be inspected and mixed as posts are. One upload of ``x_i + sum_k m_(k->i)`` would
serve all neighbours, each of which could subtract its own part, but then a message that does not
arrive would corrupt all later ones. Separate messages take no more bytes along an edge.
"""

from __future__ import annotations

from dataclasses import replace

from flwr.app import ArrayRecord, Context

from flwr_decaf.clients.mixing import usable_posts
from flwr_decaf.lora import State, select
from flwr_decaf.messages.mail import Mail, discard_mail, put_mail, read_mail
from flwr_decaf.messages.packing import pack_shared
from flwr_decaf.rules import average


def relayed_means(own: State, received: Mail) -> dict[int, State]:
    """Compute what a node sends to each neighbour.

    Parameters
    ----------
    own : State
        The node's trained state.
    received : Mail
        The last mail with posts, whose weights are c_(k->i) / n, and the recipients. The node's own
        state replaces a post that cannot be used.

    Returns
    -------
    dict of int to State
        m_(i->j), with the tensors that are exchanged, by recipient j.
    """
    usable, _ = usable_posts(own, received)
    exchanged = select(own, received.exchanged)
    counts = dict(zip(received.posts, received.weights[1:], strict=True))
    counts = {sender: weight * received.nodes for sender, weight in counts.items()}

    def mean_for(recipient: int) -> State:
        others = [sender for sender in counts if sender != recipient]
        total = 1 + sum(counts[sender] for sender in others)
        states = [exchanged, *(usable.get(sender, exchanged) for sender in others)]
        return average(states, [1 / total, *(counts[sender] / total for sender in others)])

    return {recipient: mean_for(recipient) for recipient in received.recipients}


def messages_of(own: State, received: Mail) -> ArrayRecord:
    """Pack what a node sends to each neighbour into a record, by recipient.

    Raises
    ------
    ValueError
        If posts are encrypted, which forwarded ones are not.
    """
    if received.sealed:
        raise ValueError(
            "posts.encryption must be none for posts that are forwarded; got x25519; use a "
            "strategy other than relay-sum"
        )
    means = relayed_means(own, received)
    return ArrayRecord({str(recipient): pack_shared(mean) for recipient, mean in means.items()})


def last_received(mail: Mail, context: Context, starts: bool) -> Mail:
    """Return mail with the posts that a node forwards: its own or, if it has none, the last ones.

    Posts arrive with an evaluation or with the next training, and are forwarded after the latter. A
    node that starts anew has received nothing before this mail. Without a tree, no posts remain.
    """
    if not mail.nodes:
        return replace(mail, posts={}, weights=(1.0,))
    kept = None if mail.posts or starts else read_mail(context.state)
    return replace(mail, posts=kept.posts, weights=kept.weights) if kept else mail


def keep_mail(context: Context, mail: Mail) -> None:
    """Keep in ``Context.state`` only the posts that the node forwards."""
    discard_mail(context.state)
    if mail.nodes:
        put_mail(context.state, mail)

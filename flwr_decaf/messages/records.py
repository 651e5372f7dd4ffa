"""Names of the records that the relay and the nodes exchange.

A post is a node's trained state, packed into one Flower ``Array``: see ``messages.packing``.

=========================  =================================================================
record                     meaning
=========================  =================================================================
``decaf.mail``             to a node: how to mix, and which factors are trained and posted
``decaf.posts``            to a node: its neighbours' posts, by position
``decaf.sealing``          to a node, if posts are encrypted: of which turn, and for whom
``decaf.post``             from a node: its own post; to a node that lost its state: the same
``decaf.copy``             from a node: its exact state, only for the relay, if its post is
                           quantized or a part of it; to a node that lost its state: the same
``decaf.messages``         from a node: what it forwards to each neighbour, by position
``decaf.call``             to a node: roll call, mix or collection, answered without the
                           user's code
``decaf.refused``          from a node: senders of posts that it could not use, and causes
``decaf.not-kept``         from a node: why it keeps no hidden states of frozen layers
``decaf.own``              in ``Context.state``: the node's own state
``decaf.version``          in ``Context.state``: the version of that state
``decaf.turns``            in ``Context.state``: the exchanges of its last post and last mix
``decaf.signers``          in ``Context.state``: keys that were trusted on first use
``decaf.optimizer``        in ``Context.state``: moments of the node's optimizer
``decaf.optimizer-round``  in ``Context.state``: the round of these moments
``decaf.mail``,            in ``Context.state``: the last mail, if the node forwards what it
``decaf.posts``            receives
=========================  =================================================================
"""

from __future__ import annotations

MAIL = "decaf.mail"
POSTS = "decaf.posts"
SEALING = "decaf.sealing"
POST = "decaf.post"
COPY = "decaf.copy"
MESSAGES = "decaf.messages"
CALL = "decaf.call"
REFUSED = "decaf.refused"
NOT_KEPT = "decaf.not-kept"
OWN = "decaf.own"
VERSION = "decaf.version"
TURNS = "decaf.turns"
SIGNERS = "decaf.signers"
OPTIMIZER = "decaf.optimizer"
OPTIMIZER_ROUND = "decaf.optimizer-round"

ROLL_CALL = "roll-call"
COLLECT = "collect"
MIX = "mix"
CHECK_KEYS = "check-keys"
OWN_ROWS = "own-rows"  # key of a node's presence: whether it has rows of its own
OWN_STORE = "own-store"  # the same for a store of posts
OWN_KEYS = "own-keys"  # a node's announcement of its public keys
DISCLOSES = "discloses"  # whether a node that encrypts its posts sends its final model

# Start of a node's error if the tensors of its model differ from the run's; a retry cannot help.
TRAINED = "what the train function returned"

"""The experiment by p2pfl with its in-memory protocol; run in p2pfl's environment.

p2pfl has no mixing matrix: in every round, all nodes of its train set receive the average of their
models. The train set consists of all nodes here. Votes, heartbeats and the first model follow the
ring; the models of a train set are sent directly to each of its members.
"""

from __future__ import annotations

from typing import Any

from p2pfl.settings import Settings

from benchmarks.peers import digits

# Before p2pfl's other modules are imported, since its logger starts Ray. Ten nodes of a small CNN
# are faster as threads of one process than in Ray's actors.
Settings.general.DISABLE_RAY = True
Settings.general.LOG_LEVEL = "WARNING"
# Seconds between two messages and two models; by default 0.1 and 1.
Settings.gossip.PERIOD, Settings.gossip.MODELS_PERIOD = 0.01, 0.05
Settings.gossip.MODELS_PER_ROUND = 10
Settings.gossip.MESSAGES_PER_PERIOD = Settings.gossip.AMOUNT_LAST_MESSAGES_SAVED = 10_000
# Nodes that stop sending models too early make others wait for a minute.
Settings.gossip.EXIT_ON_X_EQUAL_ROUNDS = 200
Settings.heartbeat.PERIOD, Settings.heartbeat.TIMEOUT = 1.0, 30.0


def main() -> None:
    """Connect the nodes in a ring, and run all rounds."""
    from p2pfl.utils.topologies import TopologyFactory, TopologyType
    from p2pfl.utils.utils import wait_convergence, wait_to_finish

    data = digits.inputs()
    nodes = [_node(i) for i in range(data.nodes)]
    for node in nodes:
        node.start()
    ring = TopologyFactory.generate_matrix(TopologyType.RING, data.nodes)
    TopologyFactory.connect_nodes(ring, nodes)
    wait_convergence(nodes, data.nodes - 1, wait=60)
    nodes[0].set_start_learning(rounds=data.rounds, epochs=1, trainset_size=data.nodes)
    wait_to_finish(nodes, timeout=600)
    for i, node in enumerate(nodes):
        digits.note_accuracy(node.get_model().get_model(), i)
        node.stop()


def _node(i: int) -> Any:
    from datasets import Dataset
    from p2pfl.communication.protocols.protobuff.memory import MemoryCommunicationProtocol
    from p2pfl.learning.dataset.p2pfl_dataset import P2PFLDataset
    from p2pfl.node import Node

    from benchmarks.peers.p2pfl_learner import DigitsLearner, DigitsModel

    # p2pfl asks for a data set; the learner reads its rows itself, in the order of all frameworks.
    unused = P2PFLDataset(Dataset.from_dict({"row": [0]}), dataset_name="digits")
    return Node(
        DigitsModel(digits.initial_model()), unused, addr=f"node-{i}",
        learner=DigitsLearner(i), protocol=MemoryCommunicationProtocol(),
    )  # fmt: skip

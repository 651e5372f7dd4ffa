"""The base of all decentralized strategies, which relays posts between neighbours.

Flower has no peer-to-peer messages, so the ServerApp is a mailbox. In each round it sends every
node the posts of its neighbours and the node's row of W, and the nodes mix. The rule and the
schedule of a method are in the small classes next to this file.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord
from flwr.serverapp import Grid

from flwr_decaf.config import (
    Attack,
    Evaluation,
    Failures,
    Membership,
    Participation,
    Posts,
    Robust,
    Rounds,
)
from flwr_decaf.config.arguments import check_argument
from flwr_decaf.messages.metrics import mean_metrics
from flwr_decaf.seeds import derive_seed
from flwr_decaf.strategies.relay import checks
from flwr_decaf.strategies.relay.arguments import read_options, take_over
from flwr_decaf.strategies.relay.asynchronous import AsynchronousStrategy, check_asynchronous
from flwr_decaf.strategies.relay.diagnostics import add_diagnostics, average
from flwr_decaf.strategies.relay.exchanges import exchange_all
from flwr_decaf.strategies.relay.failures import OnFailure
from flwr_decaf.strategies.relay.graph_options import GraphOptions
from flwr_decaf.strategies.relay.membership import check_open
from flwr_decaf.strategies.relay.open_roster import OnJoin
from flwr_decaf.strategies.relay.post_checks import check_posts
from flwr_decaf.strategies.relay.resumable import Start
from flwr_decaf.strategies.relay.resuming import Resume, counting_on
from flwr_decaf.strategies.relay.roster import Roster
from flwr_decaf.strategies.relay.round_metrics import Aggregate
from flwr_decaf.strategies.relay.schedules import how_often, is_due
from flwr_decaf.topology.conversion import TopologyLike
from flwr_decaf.topology.mixing_steps import describe_steps
from flwr_decaf.topology.participation import NodesByRound, draw_evaluated, present

_log = logging.getLogger("flwr")


class DecentralizedStrategy(AsynchronousStrategy):
    """Relay posts along a graph; the nodes mix them by the rule of the method.

    Parameters
    ----------
    topology : str, path, networkx.Graph, ndarray, Tensor or list of lists
        A family of ``flwr_decaf.topology.graphs.TOPOLOGIES``, a ``.json`` file, a graph on nodes
        0 to n - 1, or a mixing matrix, see ``flwr_decaf.topology.conversion.as_topology``; by
        default "ring".
    weights : str, optional
        Weight rule of ``flwr_decaf.topology.weights.WEIGHTS``; by default the method's own.
    dynamic : str
        How the graph of each round is drawn, one of ``topology.time_varying.DYNAMIC``; by default
        "static".
    topology_options : mapping, optional
        ``edge_probability``, ``degree``, ``activation_probability`` and ``peers``; by default
        those of the settings.
    seed : int
        Seed of random graphs; by default 0.
    mixing_steps : int or "period"
        Number of times that posts are exchanged and mixed in a round, each time along the next
        graph of the network; by default 1. "period" is the period of the network, which is 1 if it
        is constant.
    weighted_mixing : bool
        Whether every mix weights the nodes by ``weighted_by_key``, as in FedAvg, instead of
        equally; by default False. It cannot be combined with a robust rule. See
        ``topology.weighted_mixing``.
    num_nodes : int, optional
        Number of nodes to wait for; by default the nodes' ``num-partitions``.
    local_head : bool
        Whether tensors outside LoRA pairs, such as a classification head, stay local to each node:
        they are trained, but not mixed. They are still posted, for nodes that lose their state. By
        default False: every method averages them.
    evaluation, failures, participation, membership, rounds, posts, robust, attack : optional
        ``Evaluation``, ``Failures``, ``Participation``, ``Membership``, ``Rounds``, ``Posts``,
        ``Robust`` and ``Attack`` of ``flwr_decaf.config``; by default, each with its defaults.
        ``participation`` also accepts lists of nodes, ``membership`` "open" or "closed", ``rounds``
        "asynchronous", ``posts`` a dtype, and ``robust`` the name of a method.
    resume : Resume, optional
        Checkpoint to resume from, and a function that is called after each round; by default
        neither.
    on_failure : callable
        Function that is called with the round, node and cause of each failure; by default it does
        nothing.
    on_join : callable
        With open membership, function that is called with the grid and the nodes that join or come
        back (position -> node id), and returns the reason for each that it refuses; if it is empty,
        the node is asked again before the next round. By default it refuses none.
    weighted_by_key, arrayrecord_key, configrecord_key, train_metrics_aggr_fn, \
evaluate_metrics_aggr_fn
        As in Flower's FedAvg; the weight is used only for metrics, ``weighted_mixing`` and weight
        rules by numbers of examples.
    **shorthand
        Fields of the option objects, e.g. ``evaluate_every=5``, and FedAvg's ``fraction_train``,
        ``fraction_evaluate``, ``min_train_nodes``, ``min_evaluate_nodes`` and
        ``min_available_nodes``: see ``relay.arguments.take_over``.

    Raises
    ------
    TypeError
        If an argument is unknown; the message names the nearest match.
    ValueError
        If an argument violates its rule.
    """

    own_weights: ClassVar[str] = "metropolis"

    def __init__(  # noqa: PLR0913 - FedAvg's own arguments are among them
        self,
        topology: TopologyLike = "ring",
        *,
        weights: str | None = None,
        dynamic: str = "static",
        topology_options: Mapping[str, Any] | None = None,
        seed: int = 0,
        mixing_steps: int | str = 1,
        weighted_mixing: bool = False,
        num_nodes: int | None = None,
        local_head: bool = False,
        evaluation: Evaluation | None = None,
        failures: Failures | None = None,
        participation: Participation | NodesByRound | None = None,
        membership: Membership | str | None = None,
        rounds: Rounds | str | None = None,
        posts: Posts | str | None = None,
        robust: Robust | str | None = None,
        attack: Attack | None = None,
        resume: Resume | None = None,
        on_failure: OnFailure = lambda server_round, node, cause: None,
        on_join: OnJoin = lambda grid, nodes: {},
        weighted_by_key: str = "num-examples",
        arrayrecord_key: str = "arrays",
        configrecord_key: str = "config",
        train_metrics_aggr_fn: Aggregate | None = None,
        evaluate_metrics_aggr_fn: Aggregate | None = None,
        **shorthand: Any,
    ) -> None:
        known = inspect.signature(DecentralizedStrategy.__init__).parameters
        meant = take_over(shorthand, [*known][1:-1])
        self.min_nodes = meant.pop("min_nodes")
        given: dict[str, object] = {"evaluation": evaluation, "failures": failures}
        given |= {"participation": participation, "membership": membership, "rounds": rounds}
        given |= {"posts": posts, "robust": robust, "attack": attack, "resume": resume}
        options = read_options(given, meant)
        for name, option in options.items():
            setattr(self, name, option)
        check_posts(self.posts, self.attack, self.rule)
        self.mixing_steps = check_argument("mixing_steps", mixing_steps, "mixing-steps")
        weights = self.own_weights if weights is None else weights
        self.graph = GraphOptions(topology, weights, dynamic, topology_options, seed)
        check_open(options, self.graph, self.mixing_steps, num_nodes)
        check_asynchronous(options, self.graph, self.mixing_steps)
        self.weighted_mixing = checks.check_weighted(weighted_mixing, weights, dynamic, self.robust)
        self.num_nodes = checks.check_num_nodes(num_nodes)
        self.local_head = local_head
        self.weighted_by_key = weighted_by_key
        self.arrayrecord_key = arrayrecord_key
        self.configrecord_key = configrecord_key
        self.train_metrics_aggr_fn = train_metrics_aggr_fn or mean_metrics
        self.evaluate_metrics_aggr_fn = evaluate_metrics_aggr_fn or mean_metrics
        self.on_failure = on_failure
        self.on_join = on_join
        self._session = None

    def summary(self) -> None:
        """Log the method and the network as a tree."""
        network = self._prepared_network()
        _log.info("\t├──> Mixing: rule %r at the nodes; the ServerApp only relays", self.rule)
        for line in self.graph.describe(network):
            _log.info("\t%s", line)
        if network and self.mixing_steps != "1":
            _log.info("\t├──> Exchanges: %s", describe_steps(network, self.mixing_steps))
        _log.info("\t└──> Evaluation: %s", how_often(self.evaluation.evaluate_every))

    @counting_on
    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Address a train message with its mail to every node that participates in the round."""
        session = self._session
        if session and server_round > self.resume.done + 1:
            self.resume.on_round(session.checkpoint(server_round - 1))
        elif session is None or session.started:  # this object starts another run
            session = self.prepare(Start(grid, arrays))
        session.started = True
        session.server_round, session.step, session.train_config = server_round, 1, config
        self._renew(session, grid)
        due = self._due(server_round, session.roster)
        session.roster.expect(due)
        return session.ask(grid, due, MessageType.TRAIN, config)

    @counting_on
    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Collect the posts, drop the links of nodes without one, and address the posts as mail."""
        session = self._running()
        contents, states, sent = exchange_all(session, replies, self.network)
        session.roster.heard(contents)
        measured = session.initial if self.evaluation.evaluate_every else None
        add_diagnostics(contents, states, sent, measured, self.posts.energy < 1.0)
        averaged = self.train_metrics_aggr_fn(list(contents.values()), self.weighted_by_key)
        averages = session.start.scores_arrays or server_round == session.num_rounds
        if averages and not self.posts.encrypted:
            return average(session.initial, states.values(), self.rule), averaged
        return None, averaged

    @counting_on
    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Address an evaluate message with mail to all or some nodes, if the round is evaluated."""
        session = self._running()
        if not self._is_due(server_round):
            return []
        nodes, share = session.honest, self.evaluation.evaluate_fraction
        chosen = draw_evaluated(server_round, nodes, share, session.num_rounds, self.graph.seed)
        return session.ask(grid, chosen, MessageType.EVALUATE, config)

    @counting_on
    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Average the metrics that the nodes report for their models after mixing."""
        if not self._is_due(server_round):
            return None
        contents = list(self._running().gather(replies).values())
        return self.evaluate_metrics_aggr_fn(contents, self.weighted_by_key)

    def _due(self, server_round: int, roster: Roster) -> list[int]:
        seed, options = derive_seed(self.graph.seed, "drop", server_round), self.participation
        drawn = options.schedule, options.drop_probability, seed
        return present(server_round, roster.size, *drawn, roster.positions)

    def _is_due(self, server_round: int) -> bool:
        session, every = self._running(), self.evaluation.evaluate_every
        return session.evaluates and is_due(server_round, every, session.num_rounds)

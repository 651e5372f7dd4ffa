"""The base of all decentralized strategies: it relays posts between neighbours, and never averages.

Flower has no peer-to-peer messages, so the ServerApp is a mailbox. In each round it sends every
node the posts of its neighbours and the node's row of W, and the nodes mix. The rule and the
schedule of a method are in the small classes next to this file.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result

from flwr_decaf.config import Attack, Evaluation, Failures, Participation, Posts, Robust
from flwr_decaf.config.arguments import check_argument
from flwr_decaf.lora import State
from flwr_decaf.messages.mail import Mail
from flwr_decaf.messages.metrics import mean_metrics
from flwr_decaf.seeds import derive_seed
from flwr_decaf.strategies.relay import checks
from flwr_decaf.strategies.relay.addressing import Addressing, Neighbours
from flwr_decaf.strategies.relay.arguments import read_options, take_over
from flwr_decaf.strategies.relay.attacks import byzantine_among
from flwr_decaf.strategies.relay.attendance import Attendance
from flwr_decaf.strategies.relay.diagnostics import add_diagnostics, average
from flwr_decaf.strategies.relay.exchanges import exchange_all
from flwr_decaf.strategies.relay.failures import OnFailure
from flwr_decaf.strategies.relay.graph_options import GraphOptions
from flwr_decaf.strategies.relay.mailbox import Mailbox
from flwr_decaf.strategies.relay.resumable import ResumableStrategy, Start
from flwr_decaf.strategies.relay.resuming import Resume, counting_on, forget
from flwr_decaf.strategies.relay.roster import Roster
from flwr_decaf.strategies.relay.schedules import Schedule, both, is_due
from flwr_decaf.strategies.relay.session import Session
from flwr_decaf.topology.conversion import TopologyLike
from flwr_decaf.topology.mixing_steps import describe_steps, steps_on
from flwr_decaf.topology.network import Network
from flwr_decaf.topology.participation import Participation as ParticipationLists
from flwr_decaf.topology.participation import draw_evaluated, present

_log = logging.getLogger("flwr")

Aggregate = Callable[[list[RecordDict], str], MetricRecord]


class DecentralizedStrategy(ResumableStrategy):
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
        How the graph of each round is made, one of ``topology.time_varying.DYNAMIC``; by default
        "static".
    topology_options : mapping, optional
        ``edge_probability``, ``degree``, ``activation_probability`` and ``peers``; by default
        those of the settings.
    seed : int
        Seed of random graphs; by default 0.
    mixing_steps : int or "period"
        Number of exchanges of posts, each followed by a mix, in a round; by default 1. Each is
        along the next graph of the network. "period" is its period, 1 if it is constant.
    weighted_mixing : bool
        Whether a node counts in every mix by its ``weighted_by_key``, as in FedAvg, instead of
        equally; by default False. See ``topology.weighted_mixing``.
    num_nodes : int, optional
        Number of nodes to wait for; by default their ``num-partitions``.
    local_head : bool
        Whether tensors outside LoRA pairs, such as a classification head, stay local to each node:
        they are trained, but not mixed. They are still posted, for nodes that lose their state. By
        default False: they are averaged, under every method.
    evaluation, failures, participation, posts, robust, attack : optional
        ``Evaluation``, ``Failures``, ``Participation``, ``Posts``, ``Robust`` and ``Attack`` of
        ``flwr_decaf.config``; by default, each with its defaults. ``participation`` also accepts
        lists of nodes, ``posts`` a dtype, and ``robust`` the name of a method.
    resume : Resume, optional
        Checkpoint to resume from, and a function called after each round; by default neither.
    on_failure : callable
        Function called with round, node and cause for each node that failed; by default it does
        nothing.
    weighted_by_key, arrayrecord_key, configrecord_key, train_metrics_aggr_fn, \
evaluate_metrics_aggr_fn
        As in Flower's FedAvg; the weight is used for metrics and ``weighted_mixing`` only.
    **shorthand
        Fields of the option objects, e.g. ``evaluate_every=5``, and FedAvg's ``fraction_train``,
        ``fraction_evaluate``, ``min_train_nodes``, ``min_evaluate_nodes`` and
        ``min_available_nodes``: see ``relay.arguments.take_over``.

    Raises
    ------
    TypeError
        For an unknown argument, with the nearest match.
    ValueError
        For an argument that violates its rule.
    """

    rule: ClassVar[str]
    adapters_only: ClassVar[bool] = False  # whether it is merely averaging on whole models
    own_weights: ClassVar[str] = "metropolis"
    schedule: Schedule = staticmethod(both)
    network: Network

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
        participation: Participation | ParticipationLists | None = None,
        posts: Posts | str | None = None,
        robust: Robust | str | None = None,
        attack: Attack | None = None,
        resume: Resume | None = None,
        on_failure: OnFailure = lambda server_round, node, cause: None,
        weighted_by_key: str = "num-examples",
        arrayrecord_key: str = "arrays",
        configrecord_key: str = "config",
        train_metrics_aggr_fn: Aggregate | None = None,
        evaluate_metrics_aggr_fn: Aggregate | None = None,
        **shorthand: Any,
    ) -> None:
        known = inspect.signature(DecentralizedStrategy.__init__).parameters
        meant = take_over(shorthand, [*known][1:-1])
        self.min_nodes: int = meant.pop("min_nodes")
        given: dict[str, object] = {"evaluation": evaluation, "failures": failures}
        given["participation"] = participation
        given |= {"posts": posts, "robust": robust, "attack": attack, "resume": resume}
        options = read_options(given, meant)
        self.evaluation: Evaluation = options["evaluation"]
        self.failures: Failures = options["failures"]
        self.participation: Participation = options["participation"]
        self.posts: Posts = options["posts"]
        self.robust: Robust = options["robust"]
        self.attack: Attack = options["attack"]
        self.resume: Resume = options["resume"]
        self.weighted_mixing = weighted_mixing
        self.mixing_steps: str = check_argument("mixing_steps", mixing_steps, "mixing-steps")
        weights = self.own_weights if weights is None else weights
        self.graph = GraphOptions(topology, weights, dynamic, topology_options, seed)
        self.num_nodes = checks.check_num_nodes(num_nodes)
        self.local_head = local_head
        self.weighted_by_key = weighted_by_key
        self.arrayrecord_key = arrayrecord_key
        self.configrecord_key = configrecord_key
        self.train_metrics_aggr_fn = train_metrics_aggr_fn or mean_metrics
        self.evaluate_metrics_aggr_fn = evaluate_metrics_aggr_fn or mean_metrics
        self.on_failure = on_failure
        self._session: Session | None = None

    def _begin(self, start: Start) -> ArrayRecord:
        session = self.prepare(start.grid, start.initial_arrays)
        session.num_rounds, session.timeout = start.num_rounds, start.timeout
        session.train_config = start.train_config
        session.averages_each_round = start.scores_arrays
        return start.initial_arrays

    def _end(self, start: Start, result: Result) -> None:
        session = self._running()
        if self.resume.done == start.num_rounds:  # no round remained
            states = map(session.mailbox.posted_by, session.roster.positions)
            result.arrays = average(session.initial, states, self.rule)
        self.resume.on_round(session.mailbox.checkpoint(start.num_rounds))
        session.attendance.log.summarize()

    def prepare(self, grid: Grid, initial_arrays: ArrayRecord) -> Session:
        """Wait for the nodes, and build the network and the mailbox of a run.

        ``start`` calls it; if a subclass has its own ``start``, the first ``configure_train`` does.
        Such a run averages the models in every round, and evaluates only in the rounds that
        ``evaluate_every`` divides, since its last round is not known.

        Raises
        ------
        RuntimeError
            If nodes are missing, or run a ClientApp without the mod.
        ValueError
            If there is no such network on these nodes, or the rule cannot mix the initial arrays.
        """
        roster = Roster.call(grid, self.num_nodes)
        n = len(roster.ids)
        checks.check_minimum(n, self.min_nodes)
        self.network = self.network_on(n)
        checks.check_nodes(self.network, self.robust, self.attack, self.participation)
        initial: State = dict(initial_arrays.to_torch_state_dict())
        checks.check_initial(initial, self.rule, self.local_head)
        mailbox = Mailbox(n, initial, self._blank_mail(), self._addressing())
        if self.resume.resume_from:
            mailbox.restore(self.resume.resume_from)
        self._session = Session(
            roster,
            mailbox,
            Attendance(self.failures, self.on_failure),
            self.schedule,
            initial,
            byzantine=byzantine_among(n, self.attack.sign_flipping, self.graph.seed),
            evaluates=checks.evaluates(grid, roster.ids[0], self.evaluation),
            configrecord_key=self.configrecord_key,
            dtype=self.posts.dtype,
            seed=self.graph.seed,
            server_round=self.resume.done,
            steps=steps_on(self.network, self.mixing_steps),
            weighted_by=self.weighted_by_key if self.weighted_mixing else "",
        )
        return self._session

    def _addressing(self) -> Addressing:
        return Neighbours()

    def _blank_mail(self) -> Mail:
        return Mail(
            self.rule,
            trained="AB",
            exchanged="AB",
            arrays_key=self.arrayrecord_key,
            robust=self.robust.method,
            byzantine=self.robust.byzantine,
            local_head=self.local_head,
            measured=self.evaluation.evaluate_every > 0,
            dtype=self.posts.dtype,
            copied=self.resume.on_round is not forget,
        )

    def network_on(self, n: int) -> Network:
        """Build the network on n nodes, or return the one that has been built."""
        built = getattr(self, "network", None)
        if built is None or len(built.base) != n:
            self.network = self.graph.on(n)
        return self.network

    def summary(self) -> None:
        """Log the method and the network as a tree."""
        prepared = self._session is not None and not self._session.started
        _log.info("\t├──> Mixing: rule %r at the nodes; the ServerApp only relays", self.rule)
        for line in self.graph.describe(self.network if prepared else None):
            _log.info("\t%s", line)
        if prepared and self.mixing_steps != "1":
            _log.info("\t├──> Exchanges: %s", describe_steps(self.network, self.mixing_steps))
        _log.info("\t└──> Evaluation: %s", _how_often(self.evaluation.evaluate_every))

    @counting_on
    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Address a train message with its mail to every node that participates in the round."""
        session = self._session
        if session and server_round > self.resume.done + 1:
            self.resume.on_round(session.mailbox.checkpoint(server_round - 1))
        elif session is None or session.started:  # another run of this object
            session = self.prepare(grid, arrays)
        session.started = True
        session.server_round, session.step, session.train_config = server_round, 1, config
        session.readmit(grid)
        seed = derive_seed(self.graph.seed, "drop", server_round)
        options = self.participation
        due = present(server_round, session.n, options.schedule, options.drop_probability, seed)
        return session.ask(grid, due, MessageType.TRAIN, config)

    @counting_on
    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Collect the posts, drop the links of nodes without one, and address them as mail."""
        session = self._running()
        contents, states, sent = exchange_all(session, replies, self.network)
        measured = session.initial if self.evaluation.evaluate_every else None
        add_diagnostics(contents, states, sent, measured)
        averaged = self.train_metrics_aggr_fn(list(contents.values()), self.weighted_by_key)
        if session.averages_each_round or server_round == session.num_rounds:
            return average(session.initial, states.values(), self.rule), averaged
        return None, averaged

    @counting_on
    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Address an evaluate message with the round's mail to all or some nodes, if it is due."""
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
        """Average the metrics that the nodes report on their models after mixing."""
        if not self._is_due(server_round):
            return None
        contents = list(self._running().gather(replies).values())
        return self.evaluate_metrics_aggr_fn(contents, self.weighted_by_key)

    def collect(self, grid: Grid) -> dict[int, State]:
        """Fetch every node's own model after its last mix: the result of a decentralized run.

        Returns
        -------
        dict of int to State
            Models by position in the graph, without those of nodes that do not reply.
        """
        return self._running().collect(grid)

    def _running(self) -> Session:
        if self._session is None:
            raise RuntimeError(
                f"{type(self).__name__} has no nodes yet; call start or configure_train first"
            )
        return self._session

    def _is_due(self, server_round: int) -> bool:
        session, every = self._running(), self.evaluation.evaluate_every
        return session.evaluates and is_due(server_round, every, session.num_rounds)


def _how_often(every: int) -> str:
    return f"every {every} rounds" if every > 1 else "every round" if every else "never"

"""The router: a Flower strategy that relays posts between neighbours and never averages.

Flower has no peer-to-peer message, so the ServerApp is a mailbox. Each round it hands every node
the posts of its neighbours with the node's row of W; the nodes mix. What a method is, its rule and
its schedule, stands in the thin classes beside this file.

The one place where models are averaged here is ``_average``: a diagnostic for ``result.arrays``
and ``evaluate_fn``, which existing projects use. It is never sent to a node.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, ClassVar, NoReturn

import networkx as nx
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Message,
    MessageType,
    MetricRecord,
    RecordDict,
)
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from flwr_decaf.config.arguments import check_argument, check_topology_options
from flwr_decaf.distances import distances_to_mean
from flwr_decaf.lora import State, factor_of, select, size_in_bytes
from flwr_decaf.messages import records
from flwr_decaf.messages.checkpoint import Checkpoint
from flwr_decaf.messages.inspection import read_posts
from flwr_decaf.messages.mail import Mail
from flwr_decaf.messages.metrics import mean_metrics
from flwr_decaf.messages.packing import pack, packed_array, unpack
from flwr_decaf.rules import RULES
from flwr_decaf.seeds import derive_seed
from flwr_decaf.strategies.relay.arguments import check_byzantine, check_minimum, take_over
from flwr_decaf.strategies.relay.attacks import byzantine_among, sign_flipped
from flwr_decaf.strategies.relay.attendance import Attendance, OnFailure
from flwr_decaf.strategies.relay.mailbox import Mailbox
from flwr_decaf.strategies.relay.resuming import (
    Keep,
    counting_on,
    forget,
    rounds_left,
    run_rounds,
)
from flwr_decaf.strategies.relay.roll_call import has_evaluate, newcomers, roll_call
from flwr_decaf.strategies.relay.schedules import Schedule, both, is_due
from flwr_decaf.topology.conversion import TopologyLike, as_topology
from flwr_decaf.topology.mixing_matrix import graph_of, without_nodes
from flwr_decaf.topology.network import Network, build_time_varying_network, describe
from flwr_decaf.topology.participation import (
    Participation,
    check_fraction,
    draw_evaluated,
    present,
    read_schedule,
)
from flwr_decaf.topology.weights import check_weights

_log = logging.getLogger("flwr")
_TIMEOUT = 3600.0  # seconds; Flower's own default

Aggregate = Callable[[list[RecordDict], str], MetricRecord]


class DecentralizedStrategy(Strategy):
    """Relay posts along a graph; the nodes mix them by the method's rule.

    Parameters
    ----------
    topology : str, path, networkx.Graph, ndarray, Tensor or list of lists
        A family of ``flwr_decaf.topology.graphs.TOPOLOGIES``, a ``.json`` file, a graph on nodes
        0 .. n-1, or a mixing matrix: see ``flwr_decaf.topology.conversion.as_topology``.
    weights : str, optional
        A weight rule of ``flwr_decaf.topology.weights.WEIGHTS``; by default the method's own.
    dynamic : str
        How the graph changes from round to round, a key of ``topology.time_varying.TIME_VARYING``.
    topology_options : mapping, optional
        ``edge_probability``, ``degree``, ``activation_probability``.
    seed : int
        Decides the draw of random graphs.
    num_nodes : int, optional
        Nodes to wait for; by default what their ``num-partitions`` says.
    evaluate_every : int
        Evaluate in each round that it divides, and in the last; 0 evaluates in none, and measures
        neither consensus distance nor interference, which else is done in every round.
    evaluate_fraction : float
        Share of the nodes that are evaluated in these rounds, drawn anew each time; in the last
        round all are.
    max_failures : int, optional
        Nodes that may fail in a round before the run stops; by default, and for -1, half of them.
    retries : int
        How often a node that answers with an error is asked again in a round.
    participation : sequence of sequence of int
        Nodes that take part in each round, by turns; by default all in every round.
    drop_probability : float
        Chance that a node takes no part in a round in which it is due.
    robust : str
        Robust rule against Byzantine neighbours, a key of ``flwr_decaf.registries.ROBUST``.
    byzantine : int
        How many of a node's neighbours may be Byzantine.
    local_head : bool
        Whether a node keeps tensors outside LoRA pairs, as a classification head, to itself: they
        train and are not mixed. They are posted nevertheless, so that a node that lost its state
        can be given its own. By default they are averaged, under every method.
    sign_flipping : int
        Number of Byzantine nodes, for studies: their neighbours receive the opposite of their
        model, and they are not evaluated.
    on_failure : callable
        Called with round, node and cause for each node that failed.
    resume_from : Checkpoint, optional
        Where to go on; the initial arrays must be those of the run that made it.
    on_round : callable
        Called with a ``Checkpoint`` after each complete round.
    weighted_by_key, arrayrecord_key, configrecord_key, train_metrics_aggr_fn, \
evaluate_metrics_aggr_fn
        As in Flower's FedAvg; the weight is used for metrics only.
    fraction_train, fraction_evaluate, min_train_nodes, min_evaluate_nodes, min_available_nodes
        FedAvg's, for projects that swap their strategy: see ``arguments.take_over``.
    """

    rule: ClassVar[str]
    adapters_only: ClassVar[bool] = False  # whether it is no more than averaging on whole models
    own_weights: ClassVar[str] = "metropolis"
    schedule: Schedule = staticmethod(both)

    def __init__(  # noqa: PLR0913 - FedAvg's own arguments are among them
        self,
        topology: TopologyLike = "ring",
        *,
        weights: str | None = None,
        dynamic: str = "static",
        topology_options: Mapping[str, Any] | None = None,
        seed: int = 0,
        num_nodes: int | None = None,
        evaluate_every: int = 1,
        evaluate_fraction: float = 1.0,
        max_failures: int | None = None,
        retries: int = 1,
        participation: Participation = (),
        drop_probability: float = 0.0,
        robust: str = "none",
        byzantine: int = 1,
        local_head: bool = False,
        sign_flipping: int = 0,
        on_failure: OnFailure = lambda server_round, node, cause: None,
        weighted_by_key: str = "num-examples",
        arrayrecord_key: str = "arrays",
        configrecord_key: str = "config",
        resume_from: Checkpoint | None = None,
        on_round: Keep = forget,
        train_metrics_aggr_fn: Aggregate | None = None,
        evaluate_metrics_aggr_fn: Aggregate | None = None,
        **of_fedavg: object,
    ) -> None:
        meant = take_over(of_fedavg, inspect.signature(DecentralizedStrategy.__init__))
        self.topology = as_topology(topology)
        self.dynamic = check_argument("dynamic", dynamic, "topology.dynamic")
        self.weights = self.own_weights
        if weights is not None:
            check_weights(weights)
            self.weights = weights
        self.topology_options = check_topology_options(topology_options or {})
        self.seed = check_argument("seed", seed, "topology.seed")
        self.num_nodes = num_nodes
        self.evaluate_every = meant.get("evaluate_every", evaluate_every)
        check_argument("evaluate_every", self.evaluate_every, "evaluate-every")
        self.evaluate_fraction = meant.get("evaluate_fraction", check_fraction(evaluate_fraction))
        self.min_nodes = meant.get("min_nodes", 1)
        self.drop_probability = check_argument(
            "drop_probability", drop_probability, "drop-probability"
        )
        self.participation = read_schedule(participation) if participation else ()
        self.robust = check_argument("robust", robust, "robust.method")
        self.byzantine = check_argument("byzantine", byzantine, "robust.byzantine")
        self.local_head = local_head
        self.sign_flipping = check_argument("sign_flipping", sign_flipping, "attack.sign-flipping")
        self._network: Network | None = None
        check_argument("retries", retries, "retries")
        check_argument("max_failures", -1 if max_failures is None else max_failures, "max-failures")
        self._attendance = Attendance(
            retries, None if max_failures == -1 else max_failures, on_failure
        )
        self.weighted_by_key = weighted_by_key
        self.arrayrecord_key = arrayrecord_key
        self.configrecord_key = configrecord_key
        self.resume_from = resume_from
        self.done = resume_from.server_round if resume_from else 0
        self.on_round = on_round
        self.train_metrics_aggr_fn = train_metrics_aggr_fn or mean_metrics
        self.evaluate_metrics_aggr_fn = evaluate_metrics_aggr_fn or mean_metrics
        self._prepared = False

    def start(  # noqa: PLR0913 - Flower's signature
        self,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int = 3,
        timeout: float = 3600,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: Callable[[int, ArrayRecord], MetricRecord | None] | None = None,
    ) -> Result:
        """Call ``prepare``, and run the rounds.

        Parameters and the result are those of ``flwr.serverapp.strategy.Strategy.start``.
        ``Result.arrays`` and the arrays given to ``evaluate_fn`` are the average over the nodes'
        models by the method's own rule, for reporting only.

        Raises
        ------
        RuntimeError
            If too many nodes fail in a round; or from ``prepare``.
        ValueError
            From ``prepare``.
        """
        left = rounds_left(num_rounds, self.done)
        self.prepare(grid, initial_arrays)
        self._num_rounds = num_rounds
        self._train_config = train_config or ConfigRecord()
        self._timeout = self._attendance.timeout = timeout
        self._averages_each_round = evaluate_fn is not None
        rounds = partial(
            super().start,
            grid,
            initial_arrays,
            timeout=timeout,
            train_config=train_config,
            evaluate_config=evaluate_config,
        )
        result = run_rounds(rounds, left, self.done, evaluate_fn)
        if not left:
            result.arrays = self._average(map(self._mailbox.state_of, self._all))
        self.on_round(self._mailbox.checkpoint(num_rounds))
        self._attendance.log.summarize()
        return result

    def prepare(self, grid: Grid, initial_arrays: ArrayRecord) -> None:
        """Call the roll, and build the network and the mailbox of a run.

        ``start`` does so; where a subclass has a ``start`` of its own, the first
        ``configure_train`` does. Such a run averages the models in every round, and evaluates in
        the rounds that ``evaluate_every`` divides alone, since its last round is not known.

        Raises
        ------
        RuntimeError
            If nodes stay away, or run a ClientApp without the mod.
        ValueError
            If there is no such network on the nodes that are there, or the rule cannot mix the
            initial arrays.
        """
        self._nodes = roll_call(grid, self.num_nodes)
        self._seen = set(self._nodes)
        n = len(self._nodes)
        check_minimum(n, self.min_nodes)
        self.network = self.network_on(n)
        few = check_byzantine(self.network, self.robust, self.byzantine, self.sign_flipping)
        if few:
            _log.warning("robust: nodes with fewer than %d neighbours in a round do not mix", few)
        for server_round in range(1, len(self.participation) + 1):
            present(server_round, n, self.participation, drop_probability=0.0, seed=0)
        self._byzantine = byzantine_among(n, self.sign_flipping, self.seed)
        self._initial: State = dict(initial_arrays.to_torch_state_dict())
        RULES[self.rule]([self._initial], [1.0])  # refuse here what every node would refuse
        if self.local_head and not any(map(factor_of, self._initial)):
            raise ValueError(
                "local_head must be False for arrays without LoRA factors, of which nothing would "
                "be mixed; got True; leave it out, or train adapters"
            )
        blank = Mail(
            self.rule,
            trained="AB",
            exchanged="AB",
            arrays_key=self.arrayrecord_key,
            robust=self.robust,
            byzantine=self.byzantine,
            local_head=self.local_head,
            measured=self.evaluate_every > 0,
        )
        self._mailbox = Mailbox(n, self._initial, blank)
        if self.resume_from:
            self._mailbox.restore(self.resume_from)
        self._evaluates = self.evaluate_every > 0 and has_evaluate(grid, self._nodes[0])
        if self.evaluate_every and not self._evaluates:
            _log.warning(
                "The ClientApp has no evaluate function, so nodes are not evaluated; register one "
                "with @app.evaluate(), or pass evaluate_every=0"
            )
        self._round = self.done
        self._num_rounds = 0  # not known, unless ``start`` tells
        self._train_config = ConfigRecord()
        self._timeout = self._attendance.timeout = _TIMEOUT
        self._averages_each_round = True
        self._prepared = True

    def initialize_parameters(self, *args: object, **options: object) -> NoReturn:
        """Refuse Flower's legacy API, which calls this method first.

        Raises
        ------
        TypeError
            With the API to use.
        """
        raise TypeError(
            f"{type(self).__name__} runs on Flower's Message API, not in the legacy "
            "ServerApp(server_fn=...); write @app.main() and strategy.start(grid, initial_arrays, "
            "num_rounds) in the ServerApp, and @app.train() instead of NumPyClient in the ClientApp"
        )

    def network_on(self, n: int) -> Network:
        """Build the network on n nodes, once."""
        if self._network is None or len(self._network.base) != n:
            self._network = build_time_varying_network(
                self.topology, n, self.weights, self.seed, self.topology_options, self.dynamic
            )
        return self._network

    def summary(self) -> None:
        """Log the method and the network as a drawn tree."""
        name = self.topology if isinstance(self.topology, str) else "given"
        _log.info("\t├──> Mixing: rule %r at the nodes; the ServerApp only relays", self.rule)
        _log.info("\t├──> Topology: %s, %s", name, self.dynamic)
        for line in describe(self.network) if self._prepared else []:
            _log.info("\t│\t├── %s", line)
        _log.info("\t│\t└── Weights: %s", self.weights)
        _log.info("\t└──> Evaluation: every %d rounds", self.evaluate_every)

    @counting_on
    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Address a train message with its mail to every node."""
        if server_round > self.done + 1:
            self.on_round(self._mailbox.checkpoint(server_round - 1))
        elif not self._prepared:
            self.prepare(grid, arrays)
        self._prepared = False  # another run of this object prepares anew
        self._round, self._train_config = server_round, config
        self._let_rejoin(grid)
        seed = derive_seed(self.seed, "drop", server_round)
        n = len(self._nodes)
        due = present(server_round, n, self.participation, self.drop_probability, seed)
        return self._ask(grid, due, MessageType.TRAIN, server_round, config)

    @counting_on
    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Take in the posts, drop the links of nodes that sent none, and address the rest."""
        contents = self._gather(server_round, replies)
        posts, states = self._usable(server_round, contents)
        w = without_nodes(self.network.of_round(server_round), set(self._all) - posts.keys())
        flipped = {i: sign_flipped(states[i]) for i in self._byzantine & posts.keys()}
        forged = {node: pack(state) for node, state in flipped.items()}
        self._mailbox.collect(posts, w, self.schedule(server_round).mixed, forged)
        self._tell(contents, states, graph_of(w))
        usable = [contents[node] for node in states]  # a node whose post is bad counts as missing
        averaged = self.train_metrics_aggr_fn(usable, self.weighted_by_key)
        wanted = self._averages_each_round or server_round == self._num_rounds
        return (self._average(states.values()) if wanted else None), averaged

    def _usable(
        self, server_round: int, contents: Mapping[int, RecordDict]
    ) -> tuple[dict[int, Array], dict[int, State]]:
        """Take the posts out of the replies, and read them; a node whose post is bad is missing."""
        posts = {node: self._post_of(content) for node, content in contents.items()}
        exchanged = select(self._initial, self.schedule(server_round).exchanged)
        states, causes = read_posts(posts, like=exchanged)
        for node in causes:
            self._mailbox.lost(node)
        n = len(self._nodes)
        self._attendance.note_missing(server_round, causes, asked=len(posts), n=n)
        return {node: posts[node] for node in states}, states

    def _tell(
        self, contents: Mapping[int, RecordDict], states: Mapping[int, State], graph: nx.Graph
    ) -> None:
        """Add to the nodes' metrics what only the relay can know."""
        told = {node: next(iter(contents[node].metric_records.values())) for node in states}
        for node, state in states.items():
            told[node]["bytes-sent"] = size_in_bytes(state) * graph.degree(node)
        if self.evaluate_every:
            whole = [self._initial | state for state in states.values()]
            for node, distance in zip(states, distances_to_mean(whole), strict=True):
                told[node]["distance-to-mean"] = distance

    @counting_on
    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Address an evaluate message, with the round's mail, to all or some nodes if it is due."""
        if not self._is_due(server_round):
            return []
        honest = [node for node in self._all if node not in self._byzantine]
        share, last = self.evaluate_fraction, self._num_rounds
        chosen = draw_evaluated(server_round, honest, share, last, self.seed)
        return self._ask(grid, chosen, MessageType.EVALUATE, server_round, config)

    @counting_on
    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Average the metrics that the nodes report on what they hold after the mix."""
        if not self._is_due(server_round):
            return None
        contents = list(self._gather(server_round, replies).values())
        return self.evaluate_metrics_aggr_fn(contents, self.weighted_by_key)

    def _is_due(self, server_round: int) -> bool:
        return self._evaluates and is_due(server_round, self.evaluate_every, self._num_rounds)

    def collect(self, grid: Grid) -> dict[int, State]:
        """Fetch every node's own model after its last mix: the result of a decentralized run.

        Returns
        -------
        dict of int to State
            By position in the graph. Nodes that do not answer are left out.
        """
        call = ConfigRecord({"ask": records.COLLECT})
        kind = MessageType.TRAIN
        # The client's part in mixing may need the settings, even where nothing is trained.
        asked = self._ask(grid, self._all, kind, self._round, self._train_config, call)
        replies = grid.send_and_receive(asked, timeout=self._timeout)
        contents = self._gather(self._round, replies)
        return {node: unpack(self._post_of(content)) for node, content in contents.items()}

    @property
    def _all(self) -> range:
        return range(len(self._nodes))

    def _ask(
        self,
        grid: Grid,
        nodes: Iterable[int],
        kind: str,
        server_round: int,
        config: ConfigRecord,
        call: ConfigRecord | None = None,
    ) -> list[Message]:
        def write(node: int) -> Message:
            return self._message(node, kind, server_round, config, call)

        return self._attendance.ask(grid, nodes, write)

    def _gather(self, server_round: int, replies: Iterable[Message]) -> dict[int, RecordDict]:
        return self._attendance.gather(server_round, replies, self._nodes, self._mailbox)

    def _message(
        self,
        node: int,
        kind: str,
        server_round: int,
        config: ConfigRecord,
        call: ConfigRecord | None = None,
    ) -> Message:
        phase = self.schedule(server_round)
        settings = ConfigRecord({**config, "server-round": server_round})
        settings["trainable-factors"] = phase.trained
        content = RecordDict({self.configrecord_key: settings})
        if call is not None:
            content[records.CALL] = call
        self._mailbox.lay_into(content, node, phase.trained, phase.exchanged)
        return Message(content=content, message_type=kind, dst_node_id=self._nodes[node])

    def _let_rejoin(self, grid: Grid) -> None:
        """Give nodes that registered anew (restarted SuperNodes) the place that their data has."""
        answers = newcomers(grid, self._seen)
        self._seen |= answers.keys()
        for node_id, node in answers.items():
            if node in self._all:
                _log.warning("Node %d is back under a new node id", node)
                self._nodes[node] = node_id
                self._mailbox.lost(node)

    def _post_of(self, content: RecordDict) -> Array:
        record = content.pop(records.POST, None)
        if not isinstance(record, ArrayRecord):
            raise RuntimeError(
                "a node answered without its arrays; its train function must return them in an "
                "ArrayRecord beside the metrics"
            )
        return packed_array(record)

    def _average(self, states: Iterable[State]) -> ArrayRecord:
        whole = [self._initial | state for state in states]
        return ArrayRecord(RULES[self.rule](whole, [1.0 / len(whole)] * len(whole)))

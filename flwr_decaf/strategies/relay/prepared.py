"""What a decentralized strategy prepares before its first round and completes after its last."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from flwr.app import ArrayRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result

from flwr_decaf.config import (
    Attack,
    Evaluation,
    Failures,
    Membership,
    Participation,
    Posts,
    Robust,
)
from flwr_decaf.lora import State
from flwr_decaf.messages.encryption import new_experiment
from flwr_decaf.messages.mail import Mail
from flwr_decaf.strategies.relay import checks, post_checks
from flwr_decaf.strategies.relay.addressing import Addressing, Neighbours
from flwr_decaf.strategies.relay.attacks import byzantine_among
from flwr_decaf.strategies.relay.attendance import Attendance
from flwr_decaf.strategies.relay.diagnostics import average
from flwr_decaf.strategies.relay.failures import OnFailure
from flwr_decaf.strategies.relay.graph_options import GraphOptions
from flwr_decaf.strategies.relay.keyring import Keyring
from flwr_decaf.strategies.relay.mailbox import Mailbox
from flwr_decaf.strategies.relay.membership import check_same, follow, restore
from flwr_decaf.strategies.relay.open_roster import OnJoin, OpenRoster
from flwr_decaf.strategies.relay.post_office import open_office
from flwr_decaf.strategies.relay.resumable import ResumableStrategy, Start
from flwr_decaf.strategies.relay.resuming import forget
from flwr_decaf.strategies.relay.roster import Roster
from flwr_decaf.strategies.relay.schedules import Schedule, both
from flwr_decaf.strategies.relay.session import Session
from flwr_decaf.topology.membership import among
from flwr_decaf.topology.mixing_steps import steps_on
from flwr_decaf.topology.network import Network
from flwr_decaf.topology.weighted_mixing import metropolis_rows, weighted_rows
from flwr_decaf.topology.weights import BY_EXAMPLES


class PreparedStrategy(ResumableStrategy):
    """A strategy with a roster of nodes, a network and a mailbox.

    Attributes
    ----------
    rule : str
        Mixing rule of the method, one of ``flwr_decaf.rules.RULES``.
    adapters_only : bool
        Whether the method reduces to averaging on whole models; by default False.
    schedule : Schedule
        Factors that are trained, exchanged and mixed in a round; by default both in every round.
    network : Network
        The network, once the number of nodes is known.

    All other attributes are the arguments of ``DecentralizedStrategy``.
    """

    rule: ClassVar[str]
    adapters_only: ClassVar[bool] = False
    schedule: Schedule = staticmethod(both)
    network: Network

    graph: GraphOptions
    evaluation: Evaluation
    failures: Failures
    participation: Participation
    membership: Membership
    posts: Posts
    robust: Robust
    attack: Attack
    mixing_steps: str
    weighted_mixing: bool
    local_head: bool
    num_nodes: int | None
    min_nodes: int
    on_failure: OnFailure
    on_join: OnJoin
    weighted_by_key: str
    arrayrecord_key: str
    configrecord_key: str
    _session: Session | None

    def _begin(self, start: Start) -> ArrayRecord:
        post_checks.check_scored(self.posts, start.scores_arrays)
        self.prepare(start)
        return start.initial_arrays

    def _end(self, start: Start, result: Result) -> None:
        session = self._running()
        if self.resume.done == start.num_rounds and not self.posts.encrypted:  # no round remained
            states = map(session.mailbox.posted_by, session.roster.positions)
            result.arrays = average(session.initial, states, self.rule)
        self.resume.on_round(session.checkpoint(start.num_rounds))
        session.attendance.log.summarize()

    def prepare(self, start: Start) -> Session:
        """Wait for the nodes, and build the network and the mailbox of a run.

        ``start`` calls this method; if a subclass has its own ``start``, the first
        ``configure_train`` does. Such a run averages the models in every round, and evaluates only
        in the rounds that ``evaluate_every`` divides, since its last round is unknown.

        Parameters
        ----------
        start : Start
            The grid, the initial arrays, and what is known of the run.

        Raises
        ------
        RuntimeError
            If nodes are missing or run a ClientApp without the mod.
        ValueError
            If there is no such network on these nodes, the rule cannot mix the initial arrays, or
            the store of posts cannot be used.
        """
        grid, office, experiment = start.grid, open_office(self.posts), self._experiment()
        roster = self._roster(grid)
        checks.check_minimum(len(roster.ids), self.min_nodes)
        built = self._build_network(roster)
        checks.check_nodes(built, self.robust, self.attack, self.participation)
        initial: State = dict(start.initial_arrays.to_torch_state_dict())
        checks.check_initial(initial, self.rule, self.local_head)
        keyring = None
        if experiment:
            disclosed = self.posts.disclose_adapters
            keyring = Keyring(experiment, roster.announcements, self.network, disclosed)
            keyring.check(grid, list(roster.ids.values()))
        blank = replace(self._blank_mail(), box=office.box)
        mailbox = Mailbox(self._starts(initial, roster.size), blank, self._addressing(), experiment)
        if self.resume.resume_from:
            restore(mailbox, self.resume.resume_from, roster.positions)
        by_examples = self.graph.weights in BY_EXAMPLES
        self._session = Session(
            start,
            roster,
            mailbox,
            Attendance(self.failures, self.on_failure, start.timeout),
            self.schedule,
            initial,
            byzantine=byzantine_among(roster.size, self.attack.sign_flipping, self.graph.seed),
            evaluates=checks.evaluates(grid, next(iter(roster.ids.values())), self.evaluation),
            configrecord_key=self.configrecord_key,
            posts=self.posts,
            seed=self.graph.seed,
            server_round=self.resume.done,
            train_config=start.train_config,
            steps=steps_on(self.network, self.mixing_steps),
            weighted_by=self.weighted_by_key if self.weighted_mixing or by_examples else "",
            weigh=metropolis_rows if by_examples else weighted_rows,
            office=office,
            keyring=keyring,
        )
        return self._session

    def _roster(self, grid: Grid) -> Roster:
        """Wait for the nodes of the run."""
        check_same(self.membership, self.resume.resume_from)
        if not self.membership.is_open:
            return Roster.call(grid, self.num_nodes, self.posts)
        return OpenRoster.gather(grid, self.membership, self.posts, self.on_join, self.resume)

    def _build_network(self, roster: Roster) -> Network:
        """Build the network on the nodes that are there, and return it without the others."""
        if not self.membership.is_open:
            self.network = self.network_on(roster.size)
            return self.network
        there = self.graph.on(len(roster.ids))
        self.network = among(there, roster.positions, roster.size)
        return there

    def _prepared_network(self) -> Network | None:
        """Return the network of a run that has not started yet, on the nodes that are there."""
        if self._session is None or self._session.started:
            return None
        there = len(self._session.roster.ids)
        return self.graph.on(there) if self.membership.is_open else self.network

    def _renew(self, session: Session, grid: Grid) -> None:
        """Follow the nodes, and rebuild the network if some have joined or left."""
        changes = session.roster.renew(grid)
        if changes.joined or changes.left:
            self._build_network(session.roster)
        follow(session.mailbox, changes, self.network.base)

    def _experiment(self) -> str:
        """Return the id of a run that encrypts posts, which a resumed run continues; else ""."""
        resumed = self.resume.resume_from
        post_checks.check_resumed(resumed, self.posts)
        if not self.posts.encrypted:
            return ""
        return resumed.experiment if resumed else new_experiment()

    def _starts(self, initial: State, n: int) -> list[State]:
        """Return the state from which each node starts."""
        return [initial] * n

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
            energy=self.posts.energy,
            copied=self.resume.on_round is not forget,
            store_timeout=self.posts.store_timeout,
            sealed=self.posts.encrypted,
        )

    def network_on(self, n: int) -> Network:
        """Build the network on n nodes, or return the one that has been built."""
        built = getattr(self, "network", None)
        if built is None or len(built.base) != n:
            self.network = self.graph.on(n)
        return self.network

    def collect(self, grid: Grid) -> dict[int, State]:
        """Fetch every node's own model after its last mix: the result of a decentralized run.

        Returns
        -------
        dict of int to State
            Models by position in the graph, without those of nodes that do not reply; none if posts
            are encrypted and ``disclose_adapters`` is false: the models then stay at the nodes.
        """
        session = self._running()
        states = session.collect(grid)
        session.office.close()
        return states

    def _running(self) -> Session:
        if self._session is None:
            raise RuntimeError(
                f"{type(self).__name__} has no nodes yet; call start or configure_train first"
            )
        return self._session

"""The ``start`` of a strategy with asynchronous rounds, and what excludes them."""

from __future__ import annotations

import logging
import time
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord
from flwr.serverapp.strategy import Result

from flwr_decaf.config import Rounds
from flwr_decaf.config.setting import spelled
from flwr_decaf.strategies.relay.asynchronous_rounds import AsynchronousRounds
from flwr_decaf.strategies.relay.checks import excluded
from flwr_decaf.strategies.relay.diagnostics import average
from flwr_decaf.strategies.relay.graph_options import GraphOptions
from flwr_decaf.strategies.relay.pace import Pace
from flwr_decaf.strategies.relay.prepared import PreparedStrategy
from flwr_decaf.strategies.relay.resumable import Start
from flwr_decaf.strategies.relay.resuming import Resume, Score, rounds_left
from flwr_decaf.strategies.relay.round_metrics import Aggregate, RoundMetrics
from flwr_decaf.strategies.relay.schedules import is_due
from flwr_decaf.strategies.relay.session import Session
from flwr_decaf.topology.network import Network
from flwr_decaf.topology.participation import draw_evaluated

_log = logging.getLogger("flwr")


class AsynchronousStrategy(PreparedStrategy):
    """A strategy whose nodes wait for one another or not, as ``rounds`` says.

    Attributes
    ----------
    rounds : Rounds
        Whether nodes wait for one another.
    """

    rounds: Rounds
    train_metrics_aggr_fn: Aggregate
    evaluate_metrics_aggr_fn: Aggregate

    @abstractmethod
    def _is_due(self, server_round: int) -> bool:
        """Return whether a round is evaluated."""

    def _run_rounds(
        self, start: Start, arrays: ArrayRecord, evaluate_config: ConfigRecord, score: Score | None
    ) -> Result:
        done = self.resume.done
        if start.num_rounds > done:
            _check_same(self.rounds, self.resume)
        if not self.rounds.asynchronous or start.num_rounds == done:
            return super()._run_rounds(start, arrays, evaluate_config, score)
        began, session = time.monotonic(), self._running()
        check_constant(self.rounds, self.network)
        _check_one_phase(self.rounds, session)
        _log.info("Starting %s strategy with asynchronous rounds:", type(self).__name__)
        self.summary()
        result = Result()
        _note_score(result, score, done, done, arrays)
        trained = RoundMetrics(self.train_metrics_aggr_fn, self.weighted_by_key)
        evaluated = RoundMetrics(self.evaluate_metrics_aggr_fn, self.weighted_by_key)
        pace = self._pace(session, evaluate_config)
        session.started = True
        rows = self.network.rows(1)
        rounds = AsynchronousRounds(session, rows, pace, trained, evaluated, self.resume)
        states = rounds.run()
        result.arrays = average(session.initial, states, self.rule)
        result.train_metrics_clientapp = trained.averages()
        result.evaluate_metrics_clientapp = evaluated.averages()
        self._evaluate_last(result, start, evaluate_config)
        _note_score(result, score, done, start.num_rounds, result.arrays)
        _log.info("Strategy execution finished in %.2fs", time.monotonic() - began)
        return result

    def _evaluate_last(self, result: Result, start: Start, config: ConfigRecord) -> None:
        """Evaluate all nodes together after the last mix, as in a synchronous round."""
        left = rounds_left(start.num_rounds, self.resume.done)  # Flower's methods count from there
        asked = self.configure_evaluate(left, result.arrays, config, start.grid)
        replies = start.grid.send_and_receive(asked, timeout=start.timeout)
        averaged = self.aggregate_evaluate(left, replies)
        if averaged is not None:
            result.evaluate_metrics_clientapp[start.num_rounds] = averaged

    def _pace(self, session: Session, evaluate_config: ConfigRecord) -> Pace:
        share, every = self.evaluation.evaluate_fraction, self.evaluation.evaluate_every
        nodes, rounds, seed = session.honest, session.num_rounds, self.graph.seed
        return Pace(
            self.rounds,
            self.failures,
            is_measured=lambda t: is_due(t, every, rounds),
            is_evaluated=lambda t, node: (
                self._is_due(t) and node in draw_evaluated(t, nodes, share, rounds, seed)
            ),
            evaluate_config=evaluate_config,
            renew=lambda: self._renew(session, session.start.grid),
        )


def check_asynchronous(options: Mapping[str, Any], graph: GraphOptions, mixing_steps: str) -> None:
    """Refuse asynchronous rounds with options that need all nodes to be in the same round.

    Parameters
    ----------
    options : mapping of str to object
        Option objects of a strategy, by name.
    graph : GraphOptions
        Its graph.
    mixing_steps : str
        Number of exchanges in a round, or "period".

    Raises
    ------
    ValueError
        If rounds are asynchronous, and such an option is set.
    """
    participation, posts = options["participation"], options["posts"]
    for key, value, only, reason in (
        ("mixing-steps", mixing_steps, "1", "further mixes of a round need all nodes at once"),
        ("topology.dynamic", graph.dynamic, "static", _SAME_ROUND),
        ("topology.membership", options["membership"].membership, "closed", _JOINING),
        ("participation", participation.participation, "", "nodes have rounds of their own"),
        ("drop-probability", participation.drop_probability, 0.0, "nodes have rounds of their own"),
        ("posts.encryption", posts.encryption, "none", "posts are encrypted for one round"),
        ("robust.method", options["robust"].method, "none", _COUNTED),
        ("attack.sign-flipping", options["attack"].sign_flipping, 0, _COUNTED),
    ):
        if value != only:
            refuse_asynchronous(options["rounds"], f"{key} {spelled(value)}", reason)


_SAME_ROUND = "nodes are in different rounds, and so would use different graphs"
_JOINING = "nodes join and leave between rounds of all nodes"
_COUNTED = "the number of posts that a node mixes at a time is not known"


def refuse_asynchronous(rounds: Rounds, what: str, reason: str) -> None:
    """Refuse asynchronous rounds with something that excludes them.

    Raises
    ------
    ValueError
        If rounds are asynchronous.
    """
    if rounds.asynchronous:
        raise excluded("rounds.mode", "synchronous", rounds.mode, what, reason)


def check_constant(rounds: Rounds, network: Network) -> None:
    """Refuse asynchronous rounds on a network whose mixing matrix changes from round to round.

    Raises
    ------
    ValueError
        If rounds are asynchronous, and the network is time-varying.
    """
    if network.is_time_varying:
        refuse_asynchronous(rounds, "graphs that change from round to round", _SAME_ROUND)


def _check_one_phase(rounds: Rounds, session: Session) -> None:
    phases = {session.schedule(t) for t in range(1, session.num_rounds + 1)}
    if len(phases) > 1:
        refuse_asynchronous(rounds, "a schedule that alternates between factors", _SAME_ROUND)


def _check_same(rounds: Rounds, resume: Resume) -> None:
    """Refuse to resume with other rounds than those of the checkpoint."""
    if resume.resume_from and bool(resume.progress) != rounds.asynchronous:
        needed, whose = (
            ("asynchronous", "in which nodes are in different rounds")
            if resume.progress
            else ("synchronous", "of a round that all nodes have completed")
        )
        raise ValueError(
            f"rounds.mode must be {needed} with a checkpoint {whose}; got {rounds.mode}; change "
            "it, or start a new run"
        )


def _note_score(
    result: Result, score: Score | None, done: int, server_round: int, arrays: ArrayRecord
) -> None:
    """Let ``evaluate_fn`` score the average of the models after a round of the whole run."""
    scores = score(server_round - done, arrays) if score else None
    if scores is not None:
        result.evaluate_metrics_serverapp[server_round] = scores

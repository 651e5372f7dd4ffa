"""Asynchronous rounds: every node trains and mixes what has arrived, at its own pace."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import replace
from itertools import chain

import numpy as np
from flwr.app import Array, Message, RecordDict

from flwr_decaf.lora import State
from flwr_decaf.messages.metrics import counts_of
from flwr_decaf.strategies.relay.arrivals import Arrivals
from flwr_decaf.strategies.relay.attendance import noted_replies, report_refused
from flwr_decaf.strategies.relay.calls import Calls
from flwr_decaf.strategies.relay.diagnostics import add_diagnostics
from flwr_decaf.strategies.relay.failures import check_any_replied
from flwr_decaf.strategies.relay.pace import EVALUATE, TRAIN, Pace, Task
from flwr_decaf.strategies.relay.progress import Progress, letter_of, readers_of
from flwr_decaf.strategies.relay.replies import bytes_sent
from flwr_decaf.strategies.relay.resuming import Resume
from flwr_decaf.strategies.relay.round_metrics import RoundMetrics
from flwr_decaf.strategies.relay.session import Session
from flwr_decaf.topology.asynchronous import Received
from flwr_decaf.topology.rows import Rows

_log = logging.getLogger("flwr")
_ROUNDING = 1e-9  # of a share times a number of nodes


class AsynchronousRounds:
    """Run the rounds of every node until enough of them have completed all.

    A node that has trained gets its next message at once, with what it has exchanged: see
    ``topology.asynchronous``. With equally fast nodes, these are synchronous rounds. A node that
    fails misses its training. It is called for the next one when another node has completed a
    further round, so that a node which always fails does not run through its rounds.

    Parameters
    ----------
    session : Session
        The run.
    rows : Rows
        Rows of the mixing matrix.
    pace : Pace
        What nodes do at their own pace.
    trained, evaluated : RoundMetrics
        Metrics of the replies to train and to evaluate messages.
    resume : Resume
        Checkpoint to resume from, and what is called with another one whenever as many trainings
        as there are nodes have been completed.
    """

    def __init__(
        self,
        session: Session,
        rows: Rows,
        pace: Pace,
        trained: RoundMetrics,
        evaluated: RoundMetrics,
        resume: Resume,
    ) -> None:
        self._session, self._rows, self._pace = session, rows, pace
        self._trained, self._evaluated = trained, evaluated
        self._calls = Calls(session.start.grid, session.start.timeout)
        self._resume = resume
        self._progress = Progress(rows, pace.rounds.max_staleness, resume.progress)
        self._kept = self._progress.mean  # the round of the last checkpoint
        self._tasks: dict[int, Task] = {}
        posts = session.mailbox.posts
        self._states = {node: session.mailbox.posted_by(node) for node in posts}  # as posted
        self._failing: dict[int, str] = {}  # nodes whose last call failed -> the cause
        self._resting: dict[int, float] = {}  # nodes that failed -> the round of others to wait for

    def run(self) -> list[State]:
        """Run all rounds and mix a last time; return the posts of that mix."""
        for node in self._session.roster.positions:  # a resumed node repeats its evaluation
            done = int(self._progress.rounds[node])
            self._go_on(node, Task(done, TRAIN if done else EVALUATE))
        while self._calls or self._resting:
            self._take(self._calls.wait())
            self._call_resting()
        return self._mix_last()

    @property
    def _over(self) -> bool:
        rounds = self._progress.rounds
        finished = np.count_nonzero(rounds == self._session.num_rounds)
        return bool(
            finished >= math.ceil(self._pace.rounds.finished_share * len(rounds) - _ROUNDING)
        )

    def _ask(self, node: int, task: Task) -> None:
        session, self._tasks[node] = self._session, task
        session.server_round, session.step = task.server_round, 1
        config = session.train_config if task.kind == TRAIN else self._pace.evaluate_config
        self._calls.send(node, session.write(node, task.kind, config))

    def _take(self, replies: Mapping[int, Message | None]) -> None:
        accepted = {node: self._accepted(node, reply) for node, reply in replies.items()}
        contents = {node: content for node, content in accepted.items() if content is not None}
        evaluated = {node for node in contents if self._tasks[node].kind == EVALUATE}
        for node in evaluated:
            self._evaluated.add(self._tasks[node].server_round, contents[node])
        posted = self._mix({node: contents[node] for node in contents.keys() - evaluated})
        for node in sorted(evaluated | posted.keys()):
            self._go_on(node, self._tasks[node])

    def _go_on(self, node: int, done: Task) -> None:
        """Ask a node for what follows a task."""
        retries = self._pace.failures.retries
        if done.server_round == self._session.num_rounds:
            return
        if done.kind == TRAIN and self._pace.is_evaluated(done.server_round, node):
            self._ask(node, Task(done.server_round, EVALUATE, retries))
        elif not self._over:
            self._ask(node, Task(done.server_round + 1, TRAIN, retries))

    def _accepted(self, node: int, reply: Message | None) -> RecordDict | None:
        """Return the content of a successful reply; otherwise, call the node again or note it."""
        session, task = self._session, self._tasks[node]
        place = {node: session.roster.ids[node]}
        got = noted_replies([reply] if reply else [], place, [node], session.mailbox)
        if node in got.contents:
            session.office.redeem(got.contents)
            report_refused(session.attendance.log, task.server_round, node, got.contents[node])
            self._failing.pop(node, None)
            return got.contents[node]
        if got.lost and not task.restored:
            self._ask(node, replace(task, restored=True))
        elif got.errors and task.retries:
            self._ask(node, replace(task, retries=task.retries - 1))
        else:
            self._miss(node, (got.errors | got.silent)[node])
        return None

    def _miss(self, node: int, cause: str) -> None:
        """Note that a node has missed its training or evaluation."""
        session, task, n = self._session, self._tasks[node], len(self._session.roster.ids)
        tolerated = self._pace.failures.tolerated(n)
        session.attendance.log.note_missing(task.server_round, {node: cause}, n, tolerated)
        self._failing[node] = cause
        check_any_replied(task.server_round, self._failing, session.roster.positions)
        if task.server_round < session.num_rounds:
            self._resting[node] = self._progress.first + 1

    def _call_resting(self) -> None:
        """Call nodes again that have failed, when others have advanced or no others are called."""
        if self._over:
            self._resting.clear()
        front = self._progress.first if self._calls else math.inf
        due = [node for node, wanted in self._resting.items() if front >= wanted]
        if due:
            self._pace.renew()
        for node in due:
            del self._resting[node]
            following = self._tasks[node].server_round + 1
            self._ask(node, Task(following, TRAIN, self._pace.failures.retries))

    def _mix(self, contents: Mapping[int, RecordDict]) -> dict[int, RecordDict]:
        """Exchange the posts of nodes that have trained for those of their neighbours."""
        session = self._session
        arrived, causes = session.usable(contents)
        for node, cause in causes.items():
            self._miss(node, cause)
        posted = {node: contents[node] for node in arrived.posts}
        if not posted:
            return posted
        self._note_posts(arrived, posted)
        received = self._exchange(arrived)
        self._report(arrived, posted, received)
        self._keep()
        return posted

    def _exchange(self, arrived: Arrivals) -> dict[int, Received[Array]]:
        """Exchange posts that have arrived together, and address what their nodes mix."""
        session, mailbox = self._session, self._session.mailbox
        received = self._progress.exchange(arrived.posts, mailbox.posts | arrived.posts)
        rows, own = self._weighted, mailbox.posts  # the nodes' previous posts
        letters = {i: letter_of(i, got, rows, own.get(i)) for i, got in received.items()}
        mixed = session.schedule(session.server_round).mixed
        mailbox.address(arrived.posts, letters, mixed, arrived.copies)
        session.office.sweep(chain(mailbox.held, self._progress.held), under_way=True)
        return received

    def _keep(self) -> None:
        """Make a checkpoint if as many trainings as there are nodes have been completed."""
        reached = min(self._progress.mean, self._session.num_rounds - 1)
        if reached > self._kept:
            self._kept = reached
            checkpoint = self._session.checkpoint(reached)
            self._resume.on_round(replace(checkpoint, progress=self._progress.of_nodes()))

    def _note_posts(self, arrived: Arrivals, posted: Mapping[int, RecordDict]) -> None:
        progress, key, first = self._progress, self._session.weighted_by, self._progress.first
        counts = counts_of(posted.values(), key) if key else None
        progress.note({node: self._tasks[node].server_round for node in posted}, counts)
        self._states |= arrived.states
        if progress.first > first:
            ahead, last = int(progress.rounds.argmax()), self._session.num_rounds
            _log.info("[ROUND %d/%d] first completed by node %d", progress.first, last, ahead)

    def _report(
        self,
        arrived: Arrivals,
        posted: Mapping[int, RecordDict],
        received: Mapping[int, Received[Array]],
    ) -> None:
        """Complete the metrics of nodes that have trained, and pass them on."""
        session, options, rounds = self._session, self._session.posts, self._progress.rounds
        readers = readers_of(received, session.n)
        sent = bytes_sent(arrived.posts, arrived.states, options.dtype, readers)
        measured = {i: x for i, x in posted.items() if self._pace.is_measured(int(rounds[i]))}
        others = {node: posted[node] for node in posted.keys() - measured.keys()}
        for contents, initial in ((measured, session.initial), (others, None)):
            if contents:  # the distances of all states, once for all nodes that are measured
                add_diagnostics(contents, self._states, sent, initial, options.energy < 1.0)
        for node, content in posted.items():
            metrics = next(iter(content.metric_records.values()))
            stale, behind = self._progress.lags(node, received[node])
            metrics["staleness"], metrics["rounds-behind"] = stale, behind
            self._trained.add(int(rounds[node]), content)

    @property
    def _weighted(self) -> Rows:
        session, rows = self._session, self._rows
        return session.weigh(rows, self._progress.examples)[0] if session.weighted_by else rows

    def _mix_last(self) -> list[State]:
        """Mix all that is late, and then once by W, without the nodes that failed last.

        If all nodes have posted together, they mix by W in any case.
        """
        session, missing = self._session, self._failing.keys()
        session.server_round, session.masses = session.num_rounds, self._progress.examples
        present = sorted(self._states.keys() - missing)
        if self._progress.is_settled(present):
            return [self._states[node] for node in present]
        session.step = 2  # the first has been that of the posts after training
        arrived, causes = session.usable(session.gather(session.mix(present)))
        session.attendance.note_missing(session.server_round, causes, n=len(session.roster.ids))
        self._exchange(arrived)
        session.step = 3
        _, states, _ = session.exchange(session.mix(arrived.posts), self._rows.without(missing))
        return list(states.values())

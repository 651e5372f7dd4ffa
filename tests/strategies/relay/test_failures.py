from __future__ import annotations

import pytest

from flwr_decaf.strategies.relay.failures import FailureLog, check_any_replied, check_failures


@pytest.mark.parametrize(
    "cause", ["ActorDiedError'>:<'The actor died", "OutOfMemoryError'>:<'1 worker(s) were killed"]
)
def test_a_dead_actor_stops_the_run_whatever_may_fail(cause):
    causes = {2: f"<class 'ray.exceptions.{cause}"}
    with pytest.raises(
        RuntimeError, match=r"round 7: a Ray actor died .* client-resources-num-cpus"
    ):
        check_failures(7, causes, n=5, tolerated=5)
    # A client's own memory error is no death of its actor.
    check_failures(7, {2: "torch.OutOfMemoryError: CUDA out of memory"}, 5, tolerated=1)


def test_more_failures_than_tolerated_stop_the_run_with_the_first_cause():
    check_failures(7, {4: "y"}, 5, tolerated=1)
    with pytest.raises(RuntimeError, match=r"2 of 5 nodes failed, more than the 1 .* node 2: x"):
        check_failures(7, {4: "y", 2: "x"}, 5, tolerated=1)


def test_a_round_without_any_reply_stops_the_run_whatever_is_tolerated():
    check_any_replied(7, {3: "y"}, asked=[3, 4])
    with pytest.raises(RuntimeError, match="2 of 2 nodes failed, all of those called; .* 3: x"):
        check_any_replied(7, {3: "x", 4: "y"}, asked=[3, 4])


def test_failures_of_a_round_are_counted_together_and_each_node_once():
    reported = []
    log = FailureLog(lambda *what: reported.append(what))
    log.note_missing(1, {0: "no reply in time"}, 6, tolerated=2)
    log.note_missing(1, {0: "a post must be finite", 1: "x"}, 6, tolerated=2)
    with pytest.raises(RuntimeError, match="round 1: 3 of 6 nodes failed, more than the 2"):
        log.note_missing(1, {2: "x"}, 6, tolerated=2)
    log.note_missing(2, {3: "x", 4: "x"}, 6, tolerated=2)  # another round
    assert [node for _, node, _ in reported] == [0, 0, 1, 2, 3, 4]

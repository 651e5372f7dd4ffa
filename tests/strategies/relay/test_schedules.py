from __future__ import annotations

from flwr_decaf.strategies.relay.schedules import alternating, both, is_due, only_b


def test_phases_do_not_depend_on_the_round():
    assert {both(t) for t in range(1, 6)} == {("AB", "AB", "AB")}
    assert {only_b(t) for t in range(1, 6)} == {("B", "B", "B")}


def test_phases_by_turns():
    assert "".join(alternating(t, 3).trained for t in range(1, 10)) == "AAABBBAAA"
    assert "".join(alternating(t, 1).trained for t in range(1, 5)) == "ABAB"
    assert {alternating(t, 50).trained for t in range(1, 50)} == {"A"}  # T past the run
    assert {alternating(t, 2)[1:] for t in range(1, 9)} == {("AB", "AB")}
    assert [alternating(t, 2, "active").mixed for t in range(1, 5)] == ["A", "A", "B", "B"]


def test_rounds_that_are_evaluated():
    assert [t for t in range(1, 6) if is_due(t, every=1, last=5)] == [1, 2, 3, 4, 5]
    assert [t for t in range(1, 6) if is_due(t, every=2, last=5)] == [2, 4, 5]
    assert [t for t in range(1, 6) if is_due(t, every=9, last=5)] == [5]
    assert [t for t in range(1, 6) if is_due(t, every=0, last=5)] == []

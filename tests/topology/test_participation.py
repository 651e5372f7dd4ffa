from __future__ import annotations

import pytest

from flwr_decaf.topology.participation import present, read_schedule


def test_rounds_are_used_in_turn_and_no_node_counts_twice(tmp_path):
    file = tmp_path / "schedule.json"
    file.write_text("[[2, 0, 2], [1]]")
    schedule = read_schedule(str(file))
    assert [present(t, 3, schedule, 0.0, seed=t) for t in (1, 2, 3)] == [[0, 2], [1], [0, 2]]
    assert present(1, 3, read_schedule(""), 0.0, seed=0) == [0, 1, 2]


def test_some_scheduled_nodes_drop_out_but_never_all():
    counts = [len(present(1, 10, [[1, 3, 5, 7]], 0.5, seed)) for seed in range(400)]
    assert min(counts) == 1
    assert sum(counts) / len(counts) == pytest.approx(2, abs=0.3)
    assert all(present(1, 4, [[2]], 0.99, seed) == [2] for seed in range(50))
    assert present(1, 9, [], 0.5, seed=3) == present(1, 9, [], 0.5, seed=3)


@pytest.mark.parametrize(
    "text", ["no/such/file", "[", "[]", "[[]]", "[1]", '[["a"]]', "[[-1]]", "[[true]]", "[[0.5]]"]
)
def test_an_unreadable_schedule_is_rejected_in_one_line(text):
    with pytest.raises(ValueError, match=r"participation must be a JSON list .*write e.g.") as info:
        read_schedule(text)
    assert "\n" not in str(info.value)


def test_a_node_that_does_not_exist_is_rejected():
    with pytest.raises(ValueError, match="participation must name nodes 0 to 2; got 3"):
        present(1, 3, [[0, 3]], 0.0, seed=0)


def test_nodes_are_drawn_among_those_that_are_there():
    assert present(1, 6, [], 0.0, seed=0, there=[1, 4]) == [1, 4]
    for seed in range(30):
        among_all = set(present(1, 6, [], 0.3, seed))
        among_some = set(present(1, 6, [], 0.3, seed, there=[0, 1, 4, 5]))
        assert among_some == among_all & {0, 1, 4, 5} or len(among_some) == 1

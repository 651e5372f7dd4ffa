"""What every partitioner must satisfy. A new one needs one row in OPTIONS."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from datasets import Dataset

from flwr_decaf.config import Data
from flwr_decaf.data.partitioners import PARTITIONERS
from flwr_decaf.data.partitions import Split, describe_split, node_data, partition_rows

SKEW = [[0.9, 0.1, 0.5], [0.1, 0.9, 0.5], [0.5, 0.5, 1.0]]
OPTIONS = {
    "iid": {},
    "stratified": {},
    "dirichlet": {"alpha": 1.0},
    "pathological": {},
    "shards": {},
    "natural": {"partition_column": "writer"},
    "label-skew": {"label_skew": json.dumps(SKEW)},
}
N = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows")
    rows = [{"text": f"t{i}", "label": "abc"[i % 3], "writer": i % 10} for i in range(300)]
    Dataset.from_list(rows).to_csv(folder / "train.csv")
    Dataset.from_list(rows[:30]).to_csv(folder / "test.csv")
    return str(folder)


def data(folder, partitioner, **options):
    return Data(name=folder, partitioner=partitioner, **{**OPTIONS[partitioner], **options})


def texts(rows):
    return list(rows["text"])


def classes(part):
    return Counter(part.train["label"]) + Counter(part.local_test["label"])


def test_every_partitioner_has_a_row():
    assert set(OPTIONS) == set(PARTITIONERS)


@pytest.mark.parametrize("name", OPTIONS)
class TestEveryPartitioner:
    def test_assigns_each_row_to_one_node(self, folder, name):
        parts = [node_data(data(folder, name), node, N, seed=0) for node in range(N)]
        assigned = [t for part in parts for t in texts(part.train) + texts(part.local_test)]
        assert sorted(assigned) == sorted(f"t{i}" for i in range(300))

    def test_depends_only_on_the_seed(self, folder, name):
        def first(seed):
            node_data.cache_clear()
            partition_rows.cache_clear()
            return texts(node_data(data(folder, name), 0, N, seed).train)

        assert first(5) == first(5) != first(6)

    def test_holds_out_a_local_test_of_at_most_the_given_size(self, folder, name):
        part = node_data(data(folder, name, max_local_test_samples=4), 1, N, seed=0)
        assert 1 <= len(part.local_test) <= 4
        assert not set(texts(part.local_test)) & set(texts(part.train))

    def test_one_node_gets_everything(self, folder, name):
        options = {"label_skew": "[[1, 1, 1]]"} if name == "label-skew" else {}
        part = node_data(data(folder, name, **options), 0, 1, seed=0)
        assert len(part.train) + 30 == 300  # a tenth is the local test
        assert len(part.test) == 30


def test_iid_gives_all_classes_to_all_nodes_in_similar_shares(folder):
    for node in range(N):
        part = classes(node_data(data(folder, "iid"), node, N, 0))
        assert part.total() == 100
        assert all(20 <= part[c] <= 47 for c in range(3))


@pytest.mark.parametrize("n", [1, 2, 3, 7])
def test_stratified_distributes_every_class_evenly(folder, n):
    options = {"partitioner": "stratified", "local_test_share": 0.0}
    parts = [classes(node_data(Data(name=folder, **options), node, n, 0)) for node in range(n)]
    for label in range(3):
        assert {part[label] for part in parts} <= {100 // n, -(-100 // n)}
    totals = [part.total() for part in parts]
    assert max(totals) - min(totals) <= 1


def test_pathological_assigns_whole_classes_to_single_nodes(folder):
    parts = [classes(node_data(data(folder, "pathological"), node, N, 0)) for node in range(N)]
    assert [list(part.values()) for part in parts] == [[100], [100], [100]]
    assert len({label for part in parts for label in part}) == 3


def test_pathological_with_more_nodes_than_classes_shares_a_class(folder):
    parts = [classes(node_data(data(folder, "pathological"), node, 5, 0)) for node in range(5)]
    assert all(len(part) == 1 for part in parts)


def test_two_shards_are_two_classes_and_all_nodes_are_equally_large(folder):
    # Six shards of 50 rows: each class is cut into two.
    parts = [classes(node_data(data(folder, "shards"), node, N, 0)) for node in range(N)]
    assert [part.total() for part in parts] == [100] * N
    assert all(set(part.values()) <= {50, 100} for part in parts)
    more = data(folder, "shards", shards_per_node=50)
    assert all(len(classes(node_data(more, node, N, 0))) == 3 for node in range(N))


def test_a_split_is_described_by_its_rows_of_each_class(folder):
    split = describe_split(data(folder, "label-skew"), N, 0)
    assert split.classes == ["a", "b", "c"]
    assert [list(column) for column in zip(*split.counts, strict=True)] == [
        pytest.approx([100 * row[c] / sum(r[c] for r in SKEW) for row in SKEW], abs=1)
        for c in range(3)
    ]
    unlabelled = Data(name=folder, partitioner="iid", label_column="")
    assert describe_split(unlabelled, 4, 0) == Split(["rows"], [[75]] * 4)


def test_natural_gives_all_rows_of_a_value_to_one_node(folder):
    parts = [node_data(data(folder, "natural"), node, N, 0) for node in range(N)]
    writers = [set(part.train["writer"]) | set(part.local_test["writer"]) for part in parts]
    assert sorted(len(one) for one in writers) == [3, 3, 4]
    assert set.union(*writers) == set(range(10))
    with pytest.raises(ValueError, match=r"'writer' has 10 for 11 nodes; use at most 10 nodes"):
        node_data(data(folder, "natural"), 0, 11, 0)
    with pytest.raises(ValueError, match=r"data.partition-column must name columns of .*'author'"):
        node_data(data(folder, "natural", partition_column="author"), 0, N, 0)


@pytest.mark.parametrize(
    ("name", "arguments", "sizes"),
    [
        ("LinearPartitioner", {}, [50, 100, 150]),  # in proportion to 1, 2, 3
        ("SizePartitioner", {"partition_sizes": [200, 70, 30]}, [200, 70, 30]),
        ("PathologicalPartitioner", {"num_classes_per_partition": 3}, [100, 100, 100]),
    ],
)
def test_classes_of_flwr_datasets_take_their_arguments(folder, name, arguments, sizes):
    given = Data(name=folder, partitioner=name, partitioner_arguments=json.dumps(arguments))
    parts = [node_data(given, node, N, 0) for node in range(N)]
    found = [len(part.train) + len(part.local_test) for part in parts]
    assert found == pytest.approx(sizes, abs=2)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        (
            "NoPartitioner",
            "",
            r"a class of flwr_datasets.partitioner: .*IidPartitioner.*; got 'NoP",
        ),
        ("Partitioner", "", r"a class of flwr_datasets.partitioner: .*; got 'Partitioner'"),
        ("LinearPartitioner", "[3]", r"must be arguments of LinearPartitioner; got '\[3\]' .*JSON"),
        ("LinearPartitioner", '{"alpha": 1}', r"unexpected keyword.*; it accepts num_partitions"),
    ],
)
def test_unknown_classes_and_arguments_are_refused(folder, name, arguments, message):
    given = Data(name=folder, partitioner=name, partitioner_arguments=arguments)
    with pytest.raises(ValueError, match=message):
        node_data(given, 0, N, 0)


def test_label_skew_follows_the_table(folder):
    for node, row in enumerate(SKEW):
        expected = [round(100 * row[c] / sum(r[c] for r in SKEW)) for c in range(3)]
        found = classes(node_data(data(folder, "label-skew"), node, N, 0))
        assert [found[c] for c in range(3)] == pytest.approx(expected, abs=1)


def test_dirichlet_is_uneven_for_small_alpha_and_even_for_large(folder):
    def largest_share(alpha):
        part = classes(node_data(data(folder, "dirichlet", alpha=alpha), 0, N, 0))
        return max(part.values()) / part.total()

    assert largest_share(1000.0) < 0.45
    assert largest_share(0.05) > 0.6


@pytest.mark.parametrize(
    ("name", "n", "options", "message"),
    [
        ("iid", 301, {}, "num-supernodes must be <= the number of training rows; got 301 nodes"),
        ("iid", 200, {}, "must give every node at least 2 rows"),
        ("label-skew", 2, {}, r"got shape \(3, 3\) for 2 nodes and 3 classes"),
        (
            "label-skew",
            3,
            {"label_skew": "no/file.json"},
            "must be a JSON table or the path",
        ),
        (
            "label-skew",
            3,
            {"label_skew": "[[1,2],[3]]"},
            "must be a JSON table or the path",
        ),
        ("label-skew", 3, {"label_skew": "[[0,1,1],[0,1,1],[0,1,1]]"}, "no column of zeros"),
    ],
)
def test_rows_that_cannot_be_partitioned_are_rejected(folder, name, n, options, message):
    with pytest.raises(ValueError, match=message):
        partition_rows(data(folder, name, **options), n, seed=0)

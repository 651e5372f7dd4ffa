from __future__ import annotations

import csv
from collections import Counter
from dataclasses import replace

import pytest
from datasets import ClassLabel, Dataset, Features, Value, load_dataset
from PIL import Image

from flwr_decaf.config import Data
from flwr_decaf.data.sources import load_rows, resolve_path, skipped_rows
from flwr_decaf.seeds import derive_seed

ROWS = [{"body": f"text {i}", "topic": ("sport", "art", "food")[i % 3]} for i in range(30)]
COLUMNS = {"text_column": "body", "label_column": "topic"}


def write(kind, folder):
    file = folder / f"rows.{kind}"
    rows = Dataset.from_list(ROWS)
    if kind in ("csv", "tsv"):
        rows.to_csv(file, sep="\t" if kind == "tsv" else ",", quoting=csv.QUOTE_ALL)
    elif kind in ("json", "jsonl"):
        rows.to_json(file)
    else:
        rows.to_parquet(file)
    return file


@pytest.mark.parametrize("kind", ["csv", "tsv", "json", "jsonl", "parquet"])
def test_a_file_of_text_and_label_columns(kind, tmp_path):
    splits = load_rows(Data(name=str(write(kind, tmp_path)), **COLUMNS), seed=0)
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 24, "test": 6}
    assert splits["train"].column_names == ["body", "label"]
    feature = splits["train"].features["label"]
    assert isinstance(feature, ClassLabel)
    assert feature.names == ["art", "food", "sport"]
    topic_of = {row["body"]: row["topic"] for row in ROWS}
    for split in splits.values():
        for row in split:
            assert feature.int2str(row["label"]) == topic_of[row["body"]]


def test_a_folder_with_its_own_test_split(tmp_path):
    Dataset.from_list(ROWS[:20]).to_csv(tmp_path / "train.csv")
    Dataset.from_list(ROWS[20:]).to_csv(tmp_path / "test.csv")
    splits = load_rows(Data(name=str(tmp_path), **COLUMNS), seed=0)
    assert sorted(splits["test"]["body"]) == sorted(row["body"] for row in ROWS[20:])


def test_samples_depend_on_the_seed(tmp_path):
    file = str(write("csv", tmp_path))
    data = Data(name=file, max_train_samples=7, max_test_samples=3, **COLUMNS)
    first, again, other = (load_rows(data, seed=seed)["train"]["body"] for seed in (1, 1, 2))
    assert len(first) == 7
    assert list(first) == list(again) != list(other)


def test_shots_are_drawn_from_each_class(tmp_path):
    rows = [{"text": str(i), "label": "aab"[i % 3] if i < 30 else "c"} for i in range(33)]
    for split in ("train", "test"):
        Dataset.from_list(rows).to_csv(tmp_path / f"{split}.csv")
    data = Data(name=str(tmp_path), shots_per_class=5)
    splits = [load_rows(data, seed) for seed in (0, 0, 1)]
    assert Counter(splits[0]["train"]["label"]) == {0: 5, 1: 5, 2: 3}  # c has only three rows
    assert len(splits[0]["test"]) == 33
    drawn = [list(split["train"]["text"]) for split in splits]
    assert drawn[0] == drawn[1] != drawn[2]


def test_shots_need_classes(tmp_path):
    Dataset.from_list([{"text": str(i)} for i in range(10)]).to_csv(tmp_path / "train.csv")
    with pytest.raises(ValueError, match=r"label-column must name .*data\.shots-per-class; got ''"):
        load_rows(Data(name=str(tmp_path), label_column="", shots_per_class=2), seed=0)


def test_a_folder_of_images_by_class(tmp_path):
    for split, n in (("train", 3), ("test", 2)):
        for name, shade in (("cat", 10), ("dog", 200)):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(n):
                Image.new("L", (5, 4), shade + i).save(tmp_path / split / name / f"{i}.png")
    splits = load_rows(Data(name=str(tmp_path)), seed=0)
    assert splits["train"].features["label"].names == ["cat", "dog"]
    pixels = {row["image"].getpixel((0, 0)): row["label"] for row in splits["train"]}
    assert pixels == {10: 0, 11: 0, 12: 0, 200: 1, 201: 1, 202: 1}
    assert len(splits["test"]) == 4


def test_numbers_as_labels(tmp_path):
    Dataset.from_list([{"text": str(i), "label": i % 2} for i in range(10)]).to_csv(
        tmp_path / "train.csv"
    )
    splits = load_rows(Data(name=str(tmp_path)), seed=0)
    assert splits["train"].features["label"].names == ["0", "1"]
    assert all(row["label"] == int(row["text"]) % 2 for row in splits["train"])


def test_20_newsgroups():
    splits = load_rows(Data(max_test_samples=0), seed=0)
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 11293, "test": 7528}
    names = splits["train"].features["label"].names
    assert len(names) == 20
    assert "rec.sport.hockey" in names
    hockey = [r["text"] for r in splits["test"] if names[r["label"]] == "rec.sport.hockey"]
    assert sum("hockey" in text for text in hockey) > len(hockey) / 4


@pytest.mark.parametrize("name", ["no/such.csv", "./no-folder", "/no/such"])
def test_a_missing_path_is_not_searched_for_elsewhere(name):
    with pytest.raises(ValueError, match=f"got '{name}'; there is no /.*; check the spelling"):
        load_rows(Data(name=name), seed=0)


@pytest.mark.parametrize("name", ["package:no_such_package/x.csv", "no such set"])
def test_a_data_set_that_does_not_exist_is_rejected_in_one_line(name):
    with pytest.raises(ValueError, match="data.name must be one of 20newsgroups, a hub id") as info:
        load_rows(Data(name=name), seed=0)
    assert name in str(info.value)
    assert "\n" not in str(info.value)


def test_an_unknown_suffix_is_rejected(tmp_path):
    file = tmp_path / "rows.xls"
    file.write_text("")
    with pytest.raises(ValueError, match=r"a file ending in .csv.*rows.xls"):
        load_rows(Data(name=str(file)), seed=0)


def test_a_missing_column_is_reported_with_those_that_exist(tmp_path):
    with pytest.raises(ValueError, match=r"data.label-column must .*'label'; it has body, topic"):
        load_rows(Data(name=str(write("csv", tmp_path))), seed=0)


def test_other_columns_are_kept_and_another_label_column_is_replaced(tmp_path):
    rows = [{"label": "old", "answer": i % 2 == 0, "n": i} for i in range(10)]
    Dataset.from_list(rows).to_json(tmp_path / "train.jsonl")
    splits = load_rows(Data(name=str(tmp_path / "train.jsonl"), label_column="answer"), seed=0)
    assert splits["train"].features["label"].names == ["False", "True"]
    assert sorted(splits["train"].column_names) == ["label", "n"]
    assert all(row["label"] == (row["n"] % 2 == 0) for row in splits["train"])


def test_rows_without_classes(tmp_path):
    Dataset.from_list([{"text": str(i)} for i in range(10)]).to_csv(tmp_path / "train.csv")
    assert load_rows(Data(name=str(tmp_path), label_column=""), 0)["train"].column_names == ["text"]


def test_paths_into_packages():
    assert resolve_path("some/hub-id") == "some/hub-id"
    assert resolve_path("package:datasets/load.py").endswith("datasets/load.py")
    with pytest.raises(FileNotFoundError, match="run 'make setup' in a clone"):
        resolve_path("package:datasets/no-such-file")


def test_a_selection_of_classes(tmp_path):
    file = str(write("csv", tmp_path))
    splits = load_rows(Data(name=file, classes="sport, art", **COLUMNS), seed=0)
    assert splits["train"].features["label"].names == ["sport", "art"]
    topic_of = {row["body"]: row["topic"] for row in ROWS}
    kept = [row for split in splits.values() for row in split]
    assert len(kept) == 20
    for row in kept:
        assert topic_of[row["body"]] == ["sport", "art"][row["label"]]


def test_an_unknown_class_is_rejected(tmp_path):
    with pytest.raises(ValueError, match=r"data\.classes .* got 'chess'; it has art, food, sport"):
        load_rows(Data(name=str(write("csv", tmp_path)), classes="chess", **COLUMNS), seed=0)


def test_the_test_split_can_be_chosen(tmp_path):
    rows = [{"text": f"b{i}", "label": i % 2} for i in range(8)]
    for split in ("train", "validation", "test"):
        Dataset.from_list(rows if split == "train" else rows[:3]).to_csv(tmp_path / f"{split}.csv")
    splits = load_rows(Data(name=str(tmp_path), test_split="validation"), seed=0)
    assert list(splits["test"]["text"]) == ["b0", "b1", "b2"]
    with pytest.raises(ValueError, match=r"data\.test-split must be a split .*got 'dev'; it has"):
        load_rows(Data(name=str(tmp_path), test_split="dev"), seed=0)


def with_gaps(folder, *gaps):
    rows = [{"text": f"text {i}", "label": "ab"[i % 2]} for i in range(20)]
    Dataset.from_list([*rows, *gaps]).to_csv(folder / "rows.csv", index=False)
    return Data(name=str(folder / "rows.csv"))


@pytest.mark.parametrize("empty", [None, "", "  "])
def test_rows_without_a_text_or_a_label_are_skipped_and_counted(empty, tmp_path):
    gaps = [{"text": empty, "label": "a"}, {"text": "more", "label": empty}]
    data = with_gaps(tmp_path, *gaps)
    splits = load_rows(data, seed=0)
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 16, "test": 4}
    assert splits["train"].features["label"].names == ["a", "b"]
    texts = [row["text"] for rows in splits.values() for row in rows]
    assert sorted(texts) == sorted(f"text {i}" for i in range(20))
    assert skipped_rows(data) == 2


def test_the_test_split_does_not_depend_on_the_check_for_empty_rows(tmp_path):
    data = with_gaps(tmp_path)
    assert skipped_rows(data) == 0
    rows = load_dataset("csv", data_files=data.name)["train"]
    drawn = rows.train_test_split(test_size=0.2, seed=derive_seed(5, "test split"))
    assert list(load_rows(data, seed=5)["test"]["text"]) == list(drawn["test"]["text"])


def test_only_columns_that_are_used_must_not_be_empty(tmp_path):
    data = with_gaps(tmp_path, {"text": "x", "label": None})
    assert skipped_rows(data) == 1
    assert skipped_rows(replace(data, label_column="")) == 0


def test_integer_labels_stay_integers_despite_an_empty_cell(tmp_path):
    (tmp_path / "rows.csv").write_text("text,label\n" + "a,0\nb,1\n" * 5 + "c,\n")
    splits = load_rows(Data(name=str(tmp_path / "rows.csv")), seed=0)
    assert splits["train"].features["label"].names == ["0", "1"]
    assert {row["text"]: row["label"] for row in splits["train"]} == {"a": 0, "b": 1}


def test_numbered_labels_of_minus_one_are_skipped_like_empty_ones(tmp_path):
    features = Features({"text": Value("string"), "label": ClassLabel(names=["x", "y"])})
    rows = {"text": list("abcdefgh"), "label": [0, 1, -1, 0, 1, 0, 1, 0]}
    Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "rows.parquet")
    data = Data(name=str(tmp_path / "rows.parquet"))
    splits = load_rows(data, seed=0)
    assert sorted([*splits["train"]["text"], *splits["test"]["text"]]) == list("abdefgh")
    assert skipped_rows(data) == 1


@pytest.mark.parametrize("inside", ["/etc/hostname", "../../../etc", "a/../../x"])
def test_a_name_of_a_package_cannot_leave_it(inside):
    with pytest.raises(FileNotFoundError, match="must be a file in an installed package"):
        resolve_path(f"package:flwr_decaf/{inside}")


def test_a_split_without_labels_is_rejected(tmp_path):
    Dataset.from_list([{"text": str(i), "label": "ab"[i % 2]} for i in range(8)]).to_json(
        tmp_path / "train.jsonl"
    )
    Dataset.from_list([{"text": str(i), "label": None} for i in range(3)]).to_json(
        tmp_path / "test.jsonl"
    )
    expected = r"a text and a label; got .*split test has none among 3 rows; .*data\.test-split"
    with pytest.raises(ValueError, match=expected):
        load_rows(Data(name=str(tmp_path)), seed=0)


@pytest.mark.parametrize("held_out", ["test", "validation"])
def test_a_single_file_can_have_a_column_of_splits(held_out, tmp_path):
    rows = [
        {"text": str(i), "label": i % 2, "split": held_out if i < 5 else "train"} for i in range(20)
    ]
    Dataset.from_list(rows).to_json(tmp_path / "rows.jsonl")
    splits = load_rows(Data(name=str(tmp_path / "rows.jsonl")), seed=0)
    assert list(splits["test"]["text"]) == [str(i) for i in range(5)]
    assert list(splits["train"]["text"]) == [str(i) for i in range(5, 20)]
    assert splits["train"].column_names == ["text", "label"]


def test_a_column_of_splits_must_not_be_empty_and_needs_the_value_train(tmp_path):
    rows = [{"text": str(i), "label": i % 2, "split": "train" if i else None} for i in range(10)]
    Dataset.from_list(rows).to_json(tmp_path / "some.jsonl")
    with pytest.raises(ValueError, match='column "split" must name a split'):
        load_rows(Data(name=str(tmp_path / "some.jsonl")), seed=0)
    rows = [{"text": str(i), "label": i % 2, "split": "left"} for i in range(10)]
    Dataset.from_list(rows).to_json(tmp_path / "other.jsonl")
    splits = load_rows(Data(name=str(tmp_path / "other.jsonl")), seed=0)
    assert {split: len(found) for split, found in splits.items()} == {"train": 8, "test": 2}


@pytest.mark.parametrize(
    ("name", "encoding"), [("r.csv", "utf-16"), ("r.jsonl", "utf-16"), ("r.csv", "latin-1")]
)
def test_another_encoding_is_rejected_in_one_line_with_the_remedy(name, encoding, tmp_path):
    line = "caf\u00e9,a\n" if name.endswith("csv") else '{"text": "caf\u00e9", "label": "a"}\n'
    header = "text,label\n" if name.endswith("csv") else ""
    (tmp_path / name).write_bytes((header + line * 9).encode(encoding))
    with pytest.raises(ValueError, match=r"data\.name must be .*; save it as UTF-8") as info:
        load_rows(Data(name=str(tmp_path / name)), seed=0)
    assert "\n" not in str(info.value)


def test_a_broken_file_is_rejected_with_the_cause(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"text": "a", "label": 1}\n{oops\n')
    with pytest.raises(ValueError, match=r"JSON parse error.*row 1; correct the file"):
        load_rows(Data(name=str(tmp_path / "rows.jsonl")), seed=0)

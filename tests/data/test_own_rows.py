from __future__ import annotations

from pathlib import Path

import pytest
from datasets import ClassLabel, Dataset, Features, Value
from PIL import Image

from flwr_decaf.config import Data, Model
from flwr_decaf.data import own_rows
from flwr_decaf.data.disclosure import check_class_names, check_common_test
from flwr_decaf.data.own_files import OwnFiles
from flwr_decaf.data.own_rows import RowFacts, describe, own_data

NO_COMMON = Data(name="")
ROWS = [{"text": f"text {i}", "label": ("sport", "art")[i % 2]} for i in range(20)]


def write(folder, rows, name="rows.csv"):
    file = folder / name
    Dataset.from_list(rows).to_csv(file, index=False)
    return str(file)


def labels_by_text(rows, names):
    return {row["text"]: names[row["label"]] for row in rows}


def test_what_a_node_reports(tmp_path):
    gaps = [{"text": None, "label": "art"}, {"text": "x", "label": None}]
    path = write(tmp_path, ROWS + gaps)
    files = OwnFiles(path, label_column="label")
    assert describe(Model(), NO_COMMON, files) == RowFacts(20, 0, 2, ("art", "sport"))
    no_classes = Data(name="", label_column="")
    assert describe(Model(), no_classes, OwnFiles(path)) == RowFacts(21, 0, 1)


@pytest.mark.parametrize("kind", ["file", "folder", "images"])
def test_copies_of_rows_are_in_a_folder_of_the_user_s_own(kind, tmp_path, monkeypatch):
    private = tmp_path / "private"
    private.mkdir()
    monkeypatch.setattr(own_rows, "private_folder", lambda _: private)
    data = Data(name="", classes="art, sport")
    path = write(tmp_path, [*ROWS, {"text": None, "label": "art"}])
    if kind == "folder":
        (tmp_path / "rows").mkdir()
        path = str(Path(path).rename(tmp_path / "rows" / "train.csv").parent)
    if kind == "images":
        for name in ("art", "sport"):
            (tmp_path / "rows" / name).mkdir(parents=True)
            for i in range(10):
                Image.new("RGB", (4, 4), (i, 0, 0)).save(tmp_path / "rows" / name / f"{i}.png")
        data, path = Data(name="", classes="art, sport", text_column=""), str(tmp_path / "rows")
    rows = own_data(data, OwnFiles(path), node=0, seed=0)
    encoded = rows.train.map(lambda row: {"length": 1})  # as tasks encode rows
    copies = [
        file["filename"] for x in (rows.train, rows.local_test, encoded) for file in x.cache_files
    ]
    assert copies
    assert all(Path(copy).is_relative_to(private) for copy in copies)


def test_classes_are_numbered_as_agreed_even_if_the_node_lacks_some(tmp_path):
    names = ["art", "food", "sport"]
    data = Data(name="", classes=", ".join(names), local_test_share=0.25)
    rows = own_data(data, OwnFiles(write(tmp_path, ROWS)), node=1, seed=0)
    assert (len(rows.train), len(rows.local_test), len(rows.test)) == (15, 5, 0)
    assert rows.train.features["label"].names == names
    numbered = labels_by_text(rows.train, names) | labels_by_text(rows.local_test, names)
    assert numbered == {row["text"]: row["label"] for row in ROWS}


def test_the_local_test_depends_on_seed_and_node(tmp_path):
    data, files = Data(name="", classes="art, sport"), OwnFiles(write(tmp_path, ROWS))
    held = [
        sorted(own_data(data, files, node, seed).local_test["text"])
        for node, seed in ((0, 0), (0, 0), (1, 0), (0, 1))
    ]
    assert held[0] == held[1]
    assert len({tuple(texts) for texts in held}) > 1


@pytest.mark.parametrize("how", ["test-path", "column of splits"])
def test_a_node_s_own_test_rows_are_not_trained_on(how, tmp_path):
    test = [{"text": f"test {i}", "label": "sport"} for i in range(4)]
    if how == "test-path":
        files = OwnFiles(write(tmp_path, ROWS), write(tmp_path, test, "test.csv"), own_run=True)
    else:
        marked = [x | {"split": "train"} for x in ROWS] + [x | {"split": "test"} for x in test]
        files = OwnFiles(write(tmp_path, marked), own_run=True)
    assert describe(Model(), NO_COMMON, files) == RowFacts(20, 4, 0, ("art", "sport"))
    rows = own_data(Data(name="", classes="art, sport"), files, node=0, seed=0)
    assert sorted(rows.train["text"]) == sorted(row["text"] for row in ROWS)
    assert labels_by_text(rows.local_test, ["art", "sport"]) == {
        f"test {i}": "sport" for i in range(4)
    }


def test_columns_of_other_names(tmp_path):
    rows = [{"body": r["text"], "topic": r["label"], "text": "old", "label": 7} for r in ROWS]
    files = OwnFiles(write(tmp_path, rows), text_column="body", label_column="topic")
    assert describe(Model(), NO_COMMON, files).classes == ("art", "sport")
    read = own_data(Data(name="", classes="art, sport"), files, node=0, seed=0).train
    assert sorted(read.column_names) == ["label", "text"]
    truth = {row["text"]: row["label"] for row in ROWS}
    assert all(truth[t] == label for t, label in labels_by_text(read, ["art", "sport"]).items())


def test_pairs_of_texts(tmp_path):
    rows = [{"q": "a", "b": "c", "label": i % 2} for i in range(6)]
    data = Data(name="", text_column="first, second")
    files = OwnFiles(write(tmp_path, rows), text_column="q, b")
    read = own_data(Data(name="", text_column="first, second", classes="0, 1"), files, 0, 0).train
    assert (read[0]["first"], read[0]["second"]) == ("a", "c")
    with pytest.raises(ValueError, match=r"text-column must name as many columns as data\.text"):
        describe(Model(), data, OwnFiles(files.data_path, text_column="q"))


def test_a_folder_of_images_by_class_with_another_order_than_the_others(tmp_path):
    for split, names in (("a", ["cat", "dog"]), ("b", ["dog"])):
        for name in names:
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(2):
                Image.new("L", (5, 4), i + (10 if name == "cat" else 200)).save(
                    tmp_path / split / name / f"{i}.png"
                )
    model = Model(task="image-classification")
    files = OwnFiles(str(tmp_path / "a"), str(tmp_path / "b"), label_column="label")
    assert describe(model, NO_COMMON, files) == RowFacts(4, 2, 0, ("cat", "dog"))
    rows = own_data(Data(name="", classes="ant, cat, dog"), files, node=0, seed=0)
    for split in (rows.train, rows.local_test):
        shades = {row["image"].getpixel((0, 0)): row["label"] for row in split}
        assert all(label == (1 if shade < 100 else 2) for shade, label in shades.items())
        assert 200 in shades


def test_images_without_folders_of_classes_have_no_classes(tmp_path):
    Image.new("L", (5, 4)).save(tmp_path / "0.png")
    with pytest.raises(ValueError, match=r"data\.label-column must name .*it has 'image'"):
        describe(Model(task="cnn"), NO_COMMON, OwnFiles(str(tmp_path)))


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ({}, {"text_column": "boddy"}, "text-column must name columns of 'rows.csv'; got 'boddy'"),
        ({}, {"label_column": "topic"}, "label-column must name .*it has 'text', 'label'; name"),
        ({"task": "cnn"}, {}, r"data\.image-column must name columns .*got 'image'; it has 'text'"),
    ],
)
def test_a_missing_column_is_refused_with_those_that_exist(model, options, message, tmp_path):
    files = OwnFiles(write(tmp_path, ROWS), **options)
    with pytest.raises(ValueError, match=message) as error:
        describe(Model(**model), NO_COMMON, files)
    assert "--node-config" in str(error.value)
    assert str(tmp_path) not in str(error.value)


@pytest.mark.parametrize("name", ["none.csv", "rows.xls"])
def test_a_file_that_is_not_there_is_refused(name, tmp_path):
    (tmp_path / "rows.xls").write_text("text,label\n")
    with pytest.raises(ValueError, match=rf"data-path must be a folder, or a file .*'{name}'"):
        describe(Model(), NO_COMMON, OwnFiles(str(tmp_path / name)))


def test_the_error_of_a_broken_file_quotes_no_rows(tmp_path, caplog):
    file = tmp_path / "rows.jsonl"
    file.write_text('{"text": "secret", "label": 1}\n{"text": "secret", oops\n')
    with pytest.raises(ValueError, match="data-path must be readable") as error:
        describe(Model(), NO_COMMON, OwnFiles(str(file)))
    assert "secret" not in str(error.value)
    assert caplog.records  # the node's own log has the cause


def test_too_few_rows_are_refused(tmp_path):
    one = write(tmp_path, ROWS[:1])
    with pytest.raises(ValueError, match=r"at least 2 rows .*got 1 in 'rows.csv'"):
        describe(Model(), NO_COMMON, OwnFiles(one))
    files = OwnFiles(one, label_column="label")
    assert describe(Model(), Data(name="", local_test_share=0.0), files).train == 1


@pytest.mark.parametrize("name", ["a, b", " a", "", "x" * 201, "a\x1b[31m", "a\nb"])
def test_unusable_names_of_classes_are_refused(name):
    check_class_names(["comp.graphics", "émotion", "two words"])
    with pytest.raises(ValueError, match="names of classes must have") as error:
        check_class_names(["fine", name])
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 250


def test_a_column_of_free_text_is_not_one_of_classes():
    with pytest.raises(ValueError, match="at most 10000 classes; got 10001 different values"):
        check_class_names(map(str, range(10_001)))


def test_a_value_for_missing_labels_is_treated_as_empty(tmp_path):
    features = Features({"text": Value("string"), "label": ClassLabel(names=["art", "sport"])})
    rows = {"text": ["a", "b", "c", "d"], "label": [0, -1, 1, 0]}
    Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "rows.parquet")
    files = OwnFiles(str(tmp_path / "rows.parquet"), label_column="label")
    assert describe(Model(), NO_COMMON, files) == RowFacts(3, 0, 1, ("art", "sport"))
    data = Data(name="", classes="sport, art", local_test_share=0.0)
    read = own_data(data, files, node=0, seed=0).train
    assert labels_by_text(read, ["sport", "art"]) == {"a": "art", "c": "sport", "d": "art"}


def test_classes_leave_a_node_only_if_its_operator_names_the_column(tmp_path):
    path = write(tmp_path, ROWS)
    with pytest.raises(ValueError, match="label-column must be in the node-config") as error:
        describe(Model(), NO_COMMON, OwnFiles(path))
    assert "sport" not in str(error.value)
    listed = Data(name="", classes="food, sport, art")
    assert describe(Model(), listed, OwnFiles(path)) == RowFacts(20, 0, 0)


def test_a_label_outside_the_settings_is_counted_and_quoted_in_the_node_s_log_alone(
    tmp_path, caplog
):
    data, path = Data(name="", classes="art, food"), write(tmp_path, ROWS)
    with pytest.raises(ValueError, match=r"data\.classes must list .* add them") as error:
        describe(Model(), data, OwnFiles(path))
    assert "sport" not in str(error.value)
    assert "'sport'" in caplog.text
    with pytest.raises(ValueError, match=r"this node has 'sport'; add them"):
        describe(Model(), data, OwnFiles(path, label_column="label"))
    with pytest.raises(ValueError, match="1 of them are missing") as error:
        own_data(data, OwnFiles(path), node=0, seed=0)
    assert "sport" not in str(error.value)


@pytest.mark.parametrize(
    ("data", "names"),
    [
        ({"label_column": "text"}, {}),
        ({}, {"label_column": "text"}),
        ({"text_column": "text, body", "label_column": "body"}, {}),
        ({"classes": "a, b"}, {"text_column": "label"}),
    ],
)
def test_a_column_of_texts_is_not_one_of_classes(data, names, tmp_path):
    files = OwnFiles(write(tmp_path, ROWS), **names)
    with pytest.raises(ValueError, match="label-column must not be a column of texts"):
        describe(Model(), Data(name="", **({"classes": "a, b"} | data)), files)


@pytest.mark.parametrize("name", ["{here}/common.csv", "../x", "~/x", "/etc", "tests", "a/b/c"])
def test_no_setting_makes_a_node_with_its_own_files_read_others(name, tmp_path):
    name, path = name.format(here=tmp_path), write(tmp_path, ROWS)
    with pytest.raises(ValueError, match=r"data\.name must be a hub id, or empty, at nodes with"):
        check_common_test(Data(name=name), OwnFiles(path))
    check_common_test(Data(name=name), OwnFiles(path, own_run=True))


@pytest.mark.parametrize("name", ["", "20newsgroups", "squad", "owner/name", "package:a/b"])
def test_a_common_test_of_no_path_is_accepted(name):
    check_common_test(Data(name=name), OwnFiles("rows.csv"))

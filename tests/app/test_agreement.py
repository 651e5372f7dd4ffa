"""What nodes with their own rows agree on, and what is refused."""

from __future__ import annotations

import pytest
from datasets import Dataset
from flwr.app import ConfigRecord, Error, Message, RecordDict

from flwr_decaf.app.agreement import agree
from flwr_decaf.app.row_reports import from_reply, have_own_rows, to_record, usable
from flwr_decaf.config import parse_config
from flwr_decaf.data.own_rows import RowFacts

FACTS = [
    RowFacts(9, 0, 0, ("b", "a")),
    RowFacts(5, 2, 1, ("c",)),
]


def agreed(facts=FACTS, **settings):
    given = {"data.name": "", **{key.replace("_", "-"): v for key, v in settings.items()}}
    return agree(parse_config(given), dict(enumerate(facts))).data


def test_the_classes_are_the_sorted_union():
    assert agreed().classes == "a, b, c"
    assert agreed(FACTS[:1]).classes == "a, b"


def test_the_settings_can_give_the_order_and_further_classes():
    assert agreed(**{"data.classes": "c, b, d, a"}).classes == "c, b, d, a"


def test_tasks_without_classes_agree_on_none():
    facts = [RowFacts(3, 0, 0), RowFacts(4, 0, 0)]
    settings = {"data.label-column": "", "model.task": "causal-lm"}
    assert agreed(facts, **settings).classes == ""


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"strategy": "centralized"}, "strategy = centralized must not be set"),
        ({"data.max-train-samples": 9}, r"data\.max-train-samples must not .*; set it to 0"),
        ({"data.shots-per-class": 2}, r"data\.shots-per-class must not"),
        ({"evaluate-average": True}, r"evaluate-average must not .* common test set in data\.name"),
        ({"model.objective": "contrastive", "model.task": "clip"}, "contrastive must not"),
    ],
)
def test_settings_that_need_all_rows_in_one_place_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        agreed(**settings)


def test_one_class_in_total_is_refused():
    with pytest.raises(ValueError, match=r"at least two classes over all nodes; got 'c'; name"):
        agreed(FACTS[1:])


def test_names_in_a_message_are_not_trusted():
    hostile = RowFacts(1, 0, 0, ("a\x1b[2J, b",))
    with pytest.raises(ValueError, match="node 1: names of classes must") as error:
        agreed([FACTS[0], hostile])
    assert str(error.value).isprintable()


def test_nodes_without_any_test_rows_are_refused():
    with pytest.raises(ValueError, match=r"local-test-share must be > 0 .* node 0 has no test"):
        agreed(**{"data.local-test-share": 0.0})
    assert agreed(FACTS[1:] * 2, **{"data.local-test-share": 0.0, "data.classes": "c, d"})


def common(folder, classes, **columns):
    rows = [{"text": f"t{i}", "label": classes[i % len(classes)], **columns} for i in range(12)]
    Dataset.from_list(rows).to_csv(folder / "common.csv", index=False)
    return {"data.name": str(folder / "common.csv")}


def test_all_rows_of_a_common_file_are_the_test(tmp_path):
    data = agreed(**common(tmp_path, "abcd"))
    assert (data.classes, data.test_split) == ("a, b, c", "train")


def test_a_common_test_that_lacks_a_class_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"lacks 'c'; name another one, or set data\.name to ''"):
        agreed(**common(tmp_path, "ab"))


def test_a_report_survives_the_message():
    for report in (FACTS[0], RowFacts(3, 0, 0), "it has no rows"):
        question = Message(RecordDict(), 1, "query")
        assert from_reply(Message(to_record(report), reply_to=question)) == report


def test_nodes_that_cannot_use_their_rows_are_named_with_a_printable_cause():
    question = Message(RecordDict(), 1, "query")
    bad = from_reply(Message(to_record("bad\x1b[2J\nfile" * 99), reply_to=question))
    with pytest.raises(ValueError, match=r"node 1 cannot use its own rows \(2 nodes") as error:
        usable({0: FACTS[0], 1: bad, 2: "another"})
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 500


def test_all_nodes_or_none_have_their_own_rows():
    none = [ConfigRecord({"partition-id": i, "num-partitions": 6}) for i in range(4)]
    own = [ConfigRecord({**answer, "own-rows": True}) for answer in none]
    assert have_own_rows(own)
    assert not have_own_rows(none)
    with pytest.raises(ValueError, match=r"at node 1, 3; .*'partition-id=1 num-partitions=6 "):
        have_own_rows([own[0], none[1], none[3]])


def test_a_client_app_that_cannot_be_asked_gets_the_line_that_is_missing():
    question = Message(RecordDict(), 1, "query")
    reason = "ValueError: No query function registered with name 'default'"
    answer = from_reply(Message(Error(code=2, reason=reason), reply_to=question))
    assert isinstance(answer, str)
    assert "add app.query()(describe_rows)" in answer

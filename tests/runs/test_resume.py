from __future__ import annotations

import pytest

from flwr_decaf.config import flatten, parse_config
from flwr_decaf.config.comparison import runs_of
from flwr_decaf.messages.checkpoint import Checkpoint, NodeProgress, save_checkpoint
from flwr_decaf.messages.packing import pack
from flwr_decaf.runs.folder import RunFolder
from flwr_decaf.runs.resume import check_nodes, check_resumable, rewind_to_checkpoint
from tests.states import lora_state


def start_run(path, **settings):
    runs = runs_of(parse_config(settings))
    (config,) = runs.values()
    return RunFolder.create(path, flatten(config)), runs


def write_rounds(folder, last):
    for t in range(last + 1):
        folder.append([{"node": 0, "round": t, "phase": "evaluate", "elapsed": 10.0 * t}])


def test_other_settings_are_refused_by_name(tmp_path):
    start_run(tmp_path, **{"lora.rank": 4})
    check_resumable(tmp_path, runs_of(parse_config({"lora.rank": 4, "output-dir": "elsewhere"})))
    other = runs_of(parse_config({"lora.rank": 8, "local-head": True}))
    values = r"local-head was false and is true, lora\.rank was 4 and is 8; change th"
    with pytest.raises(ValueError, match=values):
        check_resumable(tmp_path, other)


def test_a_folder_without_the_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"contains no run; give"):
        check_resumable(tmp_path, runs_of(parse_config({})))
    with pytest.raises(ValueError, match=r"nowhere does not exist; give another"):
        check_resumable(tmp_path / "nowhere", runs_of(parse_config({})))
    RunFolder.create(tmp_path / "fedavg", {})
    with pytest.raises(
        ValueError, match=r"run with these settings; .* contains none of decaf, dlo"
    ):
        check_resumable(tmp_path, runs_of(parse_config({"strategy": "decaf, dlora"})))


def test_a_folder_is_rewound_to_its_last_complete_round(tmp_path):
    folder, _ = start_run(tmp_path)
    folder.update(network={"nodes": 2})
    write_rounds(folder, last=5)
    (tmp_path / "metrics.jsonl").open("a").write('{"node": 0, "rou')  # killed while writing
    (tmp_path / "adapters" / "node-0").mkdir(parents=True)
    save_checkpoint(folder.checkpoints, Checkpoint(3, {0: pack(lora_state(0))}))
    folder.finish("failed", error="a cause")
    with pytest.raises(ValueError, match=r"num-supernodes .* was 2 and is 3; use --nodes 2"):
        check_nodes(folder, 3)
    check_nodes(folder, 2)
    assert rewind_to_checkpoint(folder).server_round == 3
    assert [line["round"] for line in folder.metrics] == [0, 1, 2, 3]
    assert not (tmp_path / "adapters").exists()
    run = folder.run
    assert (run["status"], run["resumed"][0]["after-round"]) == ("running", 3)
    assert not {"error", "ended"} & run.keys()


def test_every_node_of_asynchronous_rounds_is_rewound_to_its_own(tmp_path):
    folder, _ = start_run(tmp_path)
    for node, last in enumerate((3, 1)):
        for t in range(last + 1):
            line = {"node": node, "round": t, "elapsed": 1.0}
            folder.append([line | {"phase": "train"}] * (t > 0) + [line | {"phase": "evaluate"}])
    folder.append([{"round": 0, "phase": "average"}, {"round": 4, "phase": "average"}])
    reached = {node: NodeProgress(t, 0.0, (), {}) for node, t in ((0, 2), (1, 1), (2, 0))}
    folder.append([{"node": 2, "round": 0, "phase": "evaluate", "elapsed": 1.0}])
    posts = {0: pack(lora_state(0))}
    save_checkpoint(folder.checkpoints, Checkpoint(1, posts, progress=reached))
    assert rewind_to_checkpoint(folder).progress == reached
    kept = sorted((x.get("node", -1), x["round"], x["phase"]) for x in folder.metrics)
    # Each node is evaluated again in its last round, if it is due, but not in round 0.
    assert kept == [
        (-1, 0, "average"),
        *((0, 0, "evaluate"), (0, 1, "evaluate"), (0, 1, "train"), (0, 2, "train")),
        *((1, 0, "evaluate"), (1, 1, "train")),
        (2, 0, "evaluate"),
    ]


def test_a_run_without_a_checkpoint_starts_over(tmp_path):
    folder, _ = start_run(tmp_path)
    write_rounds(folder, last=1)
    assert rewind_to_checkpoint(folder) is None
    assert folder.metrics == []


def test_a_finished_run_keeps_no_checkpoint(tmp_path):
    folder, _ = start_run(tmp_path)
    save_checkpoint(folder.checkpoints, Checkpoint(1, {0: pack(lora_state(0))}))
    folder.finish("failed")
    assert folder.checkpoints.exists()
    folder.finish("finished")
    assert not folder.checkpoints.exists()

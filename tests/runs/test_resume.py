from __future__ import annotations

import pytest

from flwr_decaf.config import flatten, parse_config
from flwr_decaf.config.comparison import runs_of
from flwr_decaf.messages.checkpoint import Checkpoint, save_checkpoint
from flwr_decaf.messages.packing import pack
from flwr_decaf.runs.folder import RunFolder
from flwr_decaf.runs.resume import check_resumable, go_on
from tests.states import lora_state


def begin(path, **settings):
    runs = runs_of(parse_config(settings))
    (config,) = runs.values()
    return RunFolder.create(path, flatten(config)), runs


def write_rounds(folder, last):
    for t in range(last + 1):
        folder.append([{"node": 0, "round": t, "phase": "evaluate", "elapsed": 10.0 * t}])


def test_other_settings_are_refused_by_name(tmp_path):
    begin(tmp_path, **{"lora.rank": 4})
    check_resumable(tmp_path, runs_of(parse_config({"lora.rank": 4, "output-dir": "elsewhere"})))
    other = runs_of(parse_config({"lora.rank": 8, "seed": 1}))
    with pytest.raises(ValueError, match=r"seed was 0 and is 1, lora\.rank was 4 and is 8; set th"):
        check_resumable(tmp_path, other)


def test_a_folder_without_such_a_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"holds none, or one that ended before its first"):
        check_resumable(tmp_path, runs_of(parse_config({})))
    with pytest.raises(ValueError, match=r"nowhere is not; name another"):
        check_resumable(tmp_path / "nowhere", runs_of(parse_config({})))
    RunFolder.create(tmp_path / "fedavg", {})
    with pytest.raises(ValueError, match=r"begun with these settings; .* holds none of decaf, dlo"):
        check_resumable(tmp_path, runs_of(parse_config({"strategy": "decaf, dlora"})))


def test_going_back_to_the_last_complete_round(tmp_path):
    folder, _ = begin(tmp_path)
    folder.update(network={"nodes": 2})
    write_rounds(folder, last=5)
    (tmp_path / "metrics.jsonl").open("a").write('{"node": 0, "rou')  # cut off by a kill
    (tmp_path / "adapters" / "node-0").mkdir(parents=True)
    save_checkpoint(folder.checkpoints, Checkpoint(3, {0: pack(lora_state(0))}))
    folder.finish("failed", error="a cause")
    with pytest.raises(ValueError, match=r"num-supernodes .* was 2 and is 3; give --nodes 2"):
        go_on(folder, n=3)
    assert go_on(folder, n=2).server_round == 3
    assert [line["round"] for line in folder.metrics] == [0, 1, 2, 3]
    assert not (tmp_path / "adapters").exists()
    run = folder.run
    assert (run["status"], run["resumed"][0]["after-round"]) == ("running", 3)
    assert not {"error", "ended"} & run.keys()


def test_without_a_checkpoint_it_starts_over(tmp_path):
    folder, _ = begin(tmp_path)
    write_rounds(folder, last=1)
    assert go_on(folder, n=2) is None
    assert folder.metrics == []


def test_a_finished_run_keeps_no_checkpoint(tmp_path):
    folder, _ = begin(tmp_path)
    save_checkpoint(folder.checkpoints, Checkpoint(1, {0: pack(lora_state(0))}))
    folder.finish("failed")
    assert folder.checkpoints.exists()
    folder.finish("finished")
    assert not folder.checkpoints.exists()

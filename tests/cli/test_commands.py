"""The command line without runs, which are in tests/engine/test_flwr_run.py."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flwr_decaf import __version__
from flwr_decaf.cli.commands import app
from flwr_decaf.config import flatten, parse_config
from flwr_decaf.runs.folder import RunFolder
from flwr_decaf.runs.lock import locked
from tests.report.conftest import write_run

CONF = str(Path(__file__).parents[2] / "conf" / "ring.toml")


def call(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--set", "strategy=decav"], "strategy must be one or more of decaf"),
        (["--set", "lora.rank=0"], "lora.rank must be >= 1; got 0"),
        (["--set", "topology.name=rnig"], "topology.name must be one of complete"),
        (["--set", "topology.name=random-regular", "--nodes", "3"], "0 <= degree < n"),
        (["--set", "rank=4"], "did you mean"),
    ],
)
def test_wrong_settings_end_with_one_line_and_status_2(arguments, line):
    result = call("run", CONF, *arguments)
    assert result.exit_code == 2
    assert line in result.stderr
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1


def test_brackets_in_an_error_are_printed_literally(monkeypatch):
    result = call("run", CONF, "--set", "data.partitioner=[/x]")
    assert result.exit_code == 2
    assert "got '[/x]'" in result.stderr

    def refuse(*arguments):
        raise ValueError("pip install 'flwr-decaf[quantization]'")

    monkeypatch.setattr("flwr_decaf.cli.simulate.simulate", refuse)
    assert "pip install 'flwr-decaf[quantization]'" in call("run", CONF).stderr


def test_brackets_in_a_table_are_printed_literally(tmp_path):
    for name, data in {"a": "[/bold]", "b": "[red]"}.items():
        write_run(tmp_path / name, "decaf", **{"data.name": data})
    result = call("show", tmp_path)
    assert result.exit_code == 0, result.output
    assert "[/bold]" in result.stdout
    assert "[red]" in result.stdout


def test_a_missing_file_is_named():
    result = call("run", "conf/no-such.toml")
    assert result.exit_code == 2
    assert "got 'conf/no-such.toml', which does not exist; did you mean" in result.stderr


def test_an_app_without_pyproject_is_refused(tmp_path):
    result = call("run", CONF, "--app", tmp_path)
    assert result.exit_code == 2
    assert "--app must be the folder of a Flower app" in result.stderr


def test_fractions_of_gpus_that_would_hang_are_refused():
    result = call("run", CONF, "--gpus", "0.4")
    assert result.exit_code == 2
    assert "--gpus must be 0, 1/k or a whole number; got 0.4" in result.stderr


def test_several_folders_get_one_table_each_and_folders_without_one_are_named(tmp_path):
    for name in ("a", "b"):
        write_run(tmp_path / name, "decaf")
    RunFolder.create(tmp_path / "c", {"strategy": "decaf"}).finish("failed")
    result = call("show", *(tmp_path / name for name in "abc"))
    assert result.exit_code == 0
    assert result.stdout.count("decaf · ring") == 2
    assert "Left out: FOLDERS must contain an evaluated run" in result.stderr
    assert "status failed" in result.stderr


def test_show_refuses_other_folders(tmp_path):
    result = call("show", tmp_path)
    assert result.exit_code == 2
    assert "FOLDERS must be run folders or contain some" in result.stderr


def test_show_prints_a_run(tmp_path):
    settings = {"strategy": "dlora", "topology.name": "star", "seed": 0}
    folder = RunFolder.create(tmp_path / "run", settings)
    folder.append([{"node": 0, "round": 0, "phase": "evaluate", "accuracy": 0.25}])
    with locked(folder):
        result = call("show", folder.path)
    assert result.exit_code == 0
    assert "dlora · star" in result.stdout
    assert result.stdout.splitlines()[-1] == f"Run folder: {folder.path} (running)"
    left = call("show", folder.path).stdout.splitlines()[-1]
    assert left == f"Run folder: {folder.path} (interrupted)"
    folder.finish("finished")
    assert call("show", folder.path).stdout.splitlines()[-1] == f"Run folder: {folder.path}"


def test_help_is_fast_because_it_loads_no_models():
    probe = (
        "import sys, flwr_decaf.cli.commands; "
        "print([m for m in ('torch', 'ray') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_version_is_printed():
    assert call("--version").stdout == f"flwr-decaf {__version__}\n"


def test_the_package_is_a_command():
    command = [sys.executable, "-m", "flwr_decaf", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"flwr-decaf {__version__}\n"


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("run", "TOML file with settings"),
        ("show", "Run folders, or folders"),
        ("topology", "Families, or JSON files"),
    ],
)
def test_the_help_explains_the_arguments(command, words):
    assert words in call(command, "--help").stdout


def test_a_report_is_written(tmp_path):
    write_run(tmp_path / "run", "decaf")
    result = call("report", tmp_path / "run")
    assert result.exit_code == 0
    page = tmp_path / "run" / "report" / "report.html"
    assert result.stdout.strip() == f"Report: {page}"
    assert page.read_text().startswith("<!doctype html>")


def test_topologies_are_drawn_and_tabulated(tmp_path):
    picture = tmp_path / "t.svg"
    result = call("topology", "ring", "complete", "--nodes", 5, "--output", picture)
    assert result.exit_code == 0
    assert "ring" in result.stdout
    assert "0.5393" in result.stdout  # lambda2 of a ring of five
    assert picture.read_text().startswith("<?xml")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["ring", "--peers", "3"], "--peers must be omitted here; it applies only to --dynamic"),
        (["ring", "--degree", "3"], "--degree must be .* only to random-regular and small-world"),
        (["ring", "--edge-probability", "0.3"], "--edge-probability .* only to erdos-renyi"),
        (["ring", "--activation-probability", "0.3"], "only to --dynamic edge-activation"),
        (["ring", "--seed", "3"], "--seed must be .* only to graphs drawn at random"),
        (["ring", "--dynamic", "base"], "NAMES must be .* only to graphs that are not base graphs"),
        (["--dynamic", "base", "--weights", "metropolis"], "--weights must be omitted"),
        (["ring", "--nodes", "10000000"], "--nodes must be .* 3200000 GB of the .* choose at most"),
    ],
)
def test_options_without_an_effect_are_refused_by_name(arguments, line, tmp_path):
    result = call("topology", *arguments, "--output", tmp_path / "t.png")
    assert result.exit_code == 2
    assert re.search(line, result.stderr)


def test_options_with_an_effect_are_accepted(tmp_path):
    options = ("--seed", 1, "--degree", 2, "--nodes", 5, "--output", tmp_path / "t.png")
    assert call("topology", "small-world", "ring", *options).exit_code == 0
    options = ("--dynamic", "random-matching", "--seed", 1, "--output", tmp_path / "t.png")
    assert call("topology", "ring", "--nodes", 4, *options).exit_code == 0


def test_too_many_nodes_and_missing_files_end_before_anything_starts(monkeypatch, tmp_path):
    monkeypatch.setattr("flwr_decaf.cli.simulate.flwr_run", None)
    monkeypatch.chdir(tmp_path)
    for arguments, line in (
        (["--nodes", "10000000"], "--nodes must be a number whose n x n mixing matrix fits"),
        (["--set", "data.name=my.csv"], f"got 'my.csv'; there is no {tmp_path / 'my.csv'}; check"),
        (["--set", "data.name=./rows"], "data.name must name an existing file or folder"),
        (["--set", "model.name=~/models/x"], "model.name must name an existing file or folder"),
    ):
        result = call("run", CONF, *arguments)
        assert result.exit_code == 2
        assert line in result.stderr
        assert result.stderr.count("\n") == 1


def test_a_folder_as_settings_file_is_refused_in_words(tmp_path):
    result = call("run", tmp_path)
    assert result.exit_code == 2
    assert f"got '{tmp_path}', which is a folder" in result.stderr


def test_resuming_finished_runs_says_so_and_prints_their_table(monkeypatch, tmp_path):
    monkeypatch.setattr("flwr_decaf.cli.simulate.flwr_run", None)
    settings = flatten(parse_config({"num-server-rounds": 1}))
    folder = RunFolder.create(tmp_path / "run", settings)
    folder.append([{"node": 0, "round": 1, "phase": "evaluate", "accuracy": 0.25}])
    folder.finish("finished")
    (tmp_path / "run.toml").write_text("num-server-rounds = 1\n")
    result = call("run", tmp_path / "run.toml", "--set", f"resume-from={tmp_path / 'run'}")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith("All runs have finished; nothing is left to resume.")
    assert "0.250" in result.stdout


def test_an_impossible_topology_is_refused(tmp_path):
    result = call("topology", "random-regular", "--nodes", 5, "--degree", 3)
    assert result.exit_code == 2
    assert "n * degree even; got topology.degree=3 with n=5" in result.stderr


def test_a_time_varying_topology_prints_rho_and_the_phase_length(tmp_path):
    options = ("--dynamic", "one-peer-exponential", "--nodes", 2, "--output", tmp_path / "t.png")
    result = call("topology", "complete", *options)
    assert "if every round used all edges" in result.stdout
    assert "complete, one-peer-exponential: rho = 0.0000, T of TAD-LoRA = 1" in result.stdout


def test_base_graphs_show_their_period_posts_and_consensus(tmp_path):
    options = ("--dynamic", "base", "--peers", 2, "--output", tmp_path / "t.png")
    stdout = call("topology", "--nodes", 9, *options).stdout  # triples, twice
    assert "\nbase: rho = " in stdout
    assert "a period of 2 rounds of 9 nodes" in stdout
    # ||W_1 - 11^T/9|| / ||I - 11^T/9||: three blocks of 1/3 have rank 3, so sqrt(2 / 8)
    rows = [line.split() for line in stdout.splitlines()]
    assert ["1", "2", "2.00", "18.00", "0.500"] in rows
    assert ["2", "2", "2.00", "18.00", "0.000"] in rows
    assert ["period", "4.0", "on", "average", "4.00", "36.00"] in rows
    assert (tmp_path / "t.png").exists()


def test_the_posts_of_a_round_are_shown_for_several_mixes(tmp_path):
    options = ("--nodes", 10, "--output", tmp_path / "t.png", "--mixing-steps")
    base = call("topology", "--dynamic", "base", "--peers", 2, *options, "period").stdout
    assert "base: 4 mixes in a round, 5.0 posts per node" in base
    rings = call("topology", "ring", "complete", *options, 3).stdout
    assert "ring: 3 mixes in a round, 6.0 posts per node" in rings
    assert "complete: 3 mixes in a round, 27.0 posts per node" in rings
    assert "mixes in a round" not in call("topology", "ring", *options, 1).stdout


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["ring", "--mixing-steps", "0"], "mixing-steps must be a number from 1 up, or .period"),
        (
            ["complete", "--dynamic", "random-matching", "--mixing-steps", "period"],
            "mixing-steps must be a number if the graphs are drawn anew",
        ),
        (
            ["erdos-renyi", "--edge-probability", "2"],
            r"topology.edge-probability must be in \[0, 1",
        ),
        (["small-world", "--degree", "0"], "topology.degree must be >= 1; got 0"),
        (["ring", "--dynamic", "edge-activation", "--activation-probability", "-1"], "must be in"),
        (["erdos-renyi", "--seed", "-1"], "topology.seed must be >= 0; got -1"),
        (["rnig"], "topology.name must be one of complete"),
        ([], "NAMES must contain a family; got none; choose from complete"),
        (["--dynamic", "base", "--peers", "0"], "topology.peers must be >= 1; got 0"),
        (["ring", "--weights", "equal"], "topology.weights must be one of auto"),
    ],
)
def test_a_topology_is_checked_like_settings(arguments, line):
    result = call("topology", *arguments)
    assert result.exit_code == 2
    assert re.search(line, result.stderr)
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "command",
    [["topology", "ring", "--nodes", 4, "--output"], ["new"]],
    ids=lambda command: command[0],
)
def test_a_target_that_cannot_be_written_is_one_line(tmp_path, command):
    (tmp_path / "file").write_text("")
    result = call(*command, tmp_path / "file" / "below")
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)  # no traceback
    line = result.stderr.replace("\n", " ")
    assert str(tmp_path / "file") in line
    assert "; check the path, its permissions and the disk" in line


def test_the_split_of_the_data_is_tabulated_and_drawn(tmp_path):
    picture = tmp_path / "new" / "data.png"
    small = ("--set", "data.max-train-samples=60", "--set", "data.classes=sci.med, rec.autos")
    result = call("data", CONF, "--nodes", 3, *small, "--output", picture)
    assert result.exit_code == 0, result.output
    rows = re.findall(r"^ +(\d) +(\d+) +[12] (?:sci.med|rec.autos), \d+ %", result.output, re.M)
    assert [node for node, _ in rows] == ["0", "1", "2"]
    assert sum(int(count) for _, count in rows) == 60
    assert picture.read_bytes().startswith(b"\x89PNG")
    result = call("data", CONF, "--set", "data.name=")
    assert result.exit_code == 2
    assert "data.name must name a data set that is split" in result.stderr

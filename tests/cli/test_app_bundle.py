from __future__ import annotations

from pathlib import Path

from flwr.cli.build import build_fab_from_disk

from flwr_decaf.cli.app_bundle import bundled_part

ROOT = Path(__file__).parents[2]


def test_flower_bundles_the_same_files_from_the_copy_as_from_the_folder():
    with bundled_part(ROOT / "examples" / "digits") as part:
        assert build_fab_from_disk(part) == build_fab_from_disk(ROOT / "examples" / "digits")


def test_environments_run_folders_links_and_other_files_are_left_out(tmp_path):
    app = tmp_path / "app"
    kept = {"pyproject.toml", "LICENSE", ".gitignore", "package/task.py", "conf/a.toml"}
    left = {
        ".git/a.py", ".venv/a.py", "env/pyvenv.cfg", "env/a.py", "package/__pycache__/a.py",
        "runs/one/run.json", "runs/one/metrics.jsonl", "data.bin",
    }  # fmt: skip
    for name in kept | left:
        (app / name).parent.mkdir(parents=True, exist_ok=True)
        (app / name).touch()
    (app / "link.py").symlink_to(app / "package" / "task.py")
    with bundled_part(app) as part:
        files = {path.relative_to(part).as_posix() for path in part.rglob("*") if path.is_file()}
    assert files == kept
    assert not part.exists()

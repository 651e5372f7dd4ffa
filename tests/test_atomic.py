import os

import pytest

from flwr_decaf.atomic import replacing, write_atomically


def test_a_file_is_replaced_as_a_whole(tmp_path):
    file = tmp_path / "deep" / "run.json"
    write_atomically(file, "one")
    write_atomically(file, "zwei, größer")
    assert file.read_bytes() == "zwei, größer".encode()
    assert os.listdir(file.parent) == ["run.json"]


def test_a_block_that_fails_leaves_what_was_there(tmp_path):
    file = tmp_path / "run.json"
    write_atomically(file, "whole")

    def write_half():
        with replacing(file) as unfinished:
            unfinished.write_text("ha")
            raise OSError("no room on the disk")

    with pytest.raises(OSError, match="disk"):
        write_half()
    assert file.read_text() == "whole"
    assert os.listdir(tmp_path) == ["run.json"]


def test_a_folder_does_not_exist_before_it_is_filled(tmp_path):
    target = tmp_path / "adapters" / "node-0"
    with replacing(target) as unfinished:
        unfinished.mkdir()
        (unfinished / "weights").write_text("1")
        assert not target.exists()
    assert (target / "weights").read_text() == "1"


def test_a_folder_of_another_process_is_not_overwritten(tmp_path):
    target = tmp_path / "cache"

    def be_slower():
        with replacing(target) as unfinished:
            unfinished.mkdir()
            (unfinished / "weights").write_text("mine")
            target.mkdir()
            (target / "weights").write_text("theirs")

    with pytest.raises(OSError, match="not empty"):
        be_slower()
    assert (target / "weights").read_text() == "theirs"
    assert os.listdir(tmp_path) == ["cache"]

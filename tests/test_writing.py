"""A folder is written whole or not at all."""

from __future__ import annotations

import errno
import resource
import signal

import pytest
import torch
from safetensors.torch import save_file

from compresskit.checkpoint import save
from compresskit.errors import CheckpointError
from compresskit.testing import save_tiny
from compresskit.writing import whole


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("there", [False, True])
def test_files_appear_together_and_nothing_else(tmp_path, there):
    out = tmp_path / "deep" / "out"
    if there:
        out.mkdir(parents=True)
        (out / "old.txt").write_text("old")
        (out / "one.txt").write_text("old")
    with whole(out) as beside:
        (beside / "one.txt").write_text("new")
        (beside / "two.txt").write_text("new")
        assert not (out / "two.txt").exists()
        assert not there or (out / "one.txt").read_text() == "old"
    assert (out / "one.txt").read_text() == (out / "two.txt").read_text() == "new"
    assert names(tmp_path / "deep") == ["out", *(["out/old.txt"] if there else []), "out/one.txt", "out/two.txt"]


def test_the_file_that_vouches_for_the_others_moves_last(tmp_path, monkeypatch):
    out = tmp_path / "out"
    out.mkdir()
    moved = []
    replace = type(out).replace
    monkeypatch.setattr(type(out), "replace", lambda self, to: moved.append(self.name) or replace(self, to))
    with whole(out, last="a.json") as beside:
        for name in ("z.txt", "a.json", "model.safetensors"):
            (beside / name).touch()
    assert moved == ["model.safetensors", "z.txt", "a.json"]


def test_an_existing_folder_needs_nothing_outside_itself(tmp_path, monkeypatch):
    """It may be a disk of its own, to which nothing can be moved from beside it."""
    out = tmp_path / "out"
    out.mkdir()
    with whole(out) as beside:
        assert beside.parent == out
    assert names(tmp_path) == ["out"]


def test_what_a_kill_left_over_is_cleared_away(tmp_path):
    for left in (tmp_path / ".out.saving", tmp_path / "there" / ".saving"):
        left.mkdir(parents=True)
        (left / "half.txt").touch()
    for out in (tmp_path / "out", tmp_path / "there"):
        with whole(out) as beside:
            (beside / "one.txt").touch()
    assert names(tmp_path) == ["out", "out/one.txt", "there", "there/one.txt"]


@pytest.mark.parametrize("there", [False, True])
def test_an_interrupt_leaves_what_was_there(tmp_path, there):
    out = tmp_path / "out"
    if there:
        out.mkdir()
        (out / "one.txt").write_text("old")
    with pytest.raises(KeyboardInterrupt), whole(out) as beside:
        (beside / "one.txt").write_text("new")
        raise KeyboardInterrupt
    assert names(tmp_path) == (["out", "out/one.txt"] if there else [])
    assert not there or (out / "one.txt").read_text() == "old"


@pytest.fixture
def small_disk():
    """No file can be longer than 20 kB: the system refuses in the middle of a write, as it does on a full disk."""
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize(
    ("fill", "reason"),
    [
        (lambda path: path.write_text("long" * 10_000), "File too large"),
        (lambda path: save_file({"weight": torch.zeros(10_000)}, path), "File too large"),
        (lambda path: torch.save({"weight": torch.zeros(10_000)}, path), "a file was cut short"),
    ],
)
def test_a_write_that_the_system_cuts_short_leaves_what_was_there(tmp_path, small_disk, fill, reason):
    out = tmp_path / "out"
    out.mkdir()
    (out / "one.txt").write_text("old")
    with pytest.raises(CheckpointError) as caught, whole(out) as beside:
        (beside / "one.txt").write_text("new")
        fill(beside / "two")
    assert str(caught.value) == (
        f"could not save to {out}: {reason}; what was there before is untouched, make room and run the command again"
    )
    assert names(tmp_path) == ["out", "out/one.txt"]
    assert (out / "one.txt").read_text() == "old"


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("part", ["model", "tokenizer", "papers"])
def test_a_full_disk_while_a_model_is_saved_leaves_the_one_before(tmp_path, monkeypatch, there, part):
    from compresskit.checkpoint import load

    checkpoint = load(str(save_tiny(tmp_path / "model")))
    out = tmp_path / "out"
    if there:
        save(checkpoint.model, checkpoint.tokenizer, out, {"report.json": "1"})
    before = {name: (tmp_path / name).read_bytes() for name in names(tmp_path) if (tmp_path / name).is_file()}

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    target = {"model": type(checkpoint.model), "tokenizer": type(checkpoint.tokenizer), "papers": type(out)}[part]
    with monkeypatch.context() as patch, pytest.raises(CheckpointError) as caught:
        patch.setattr(target, "write_text" if part == "papers" else "save_pretrained", full)
        save(checkpoint.model, checkpoint.tokenizer, out, {"report.json": "2"})
    assert str(caught.value) == (
        f"could not save to {out}: No space left on device; what was there before is untouched, "
        "make room and run the command again"
    )
    assert {name: (tmp_path / name).read_bytes() for name in names(tmp_path) if (tmp_path / name).is_file()} == before
    assert out.exists() == there


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError) as caught, whole(tmp_path / "file" / "out"):
        pass
    assert str(caught.value) == (
        f"could not save to {tmp_path}/file/out: Not a directory; what was there before is untouched, "
        "give another folder and run the command again"
    )


def test_errors_that_are_not_about_writing_pass_through(tmp_path):
    with pytest.raises(RuntimeError, match="shared tensors"), whole(tmp_path / "out"):
        raise RuntimeError("shared tensors")
    assert names(tmp_path) == []

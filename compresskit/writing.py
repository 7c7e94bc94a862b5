"""Writes folders whole or not at all, so that a full disk or a kill leaves what was there before."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from compresskit.errors import CheckpointError

SCRATCH = ".saving"
NO_PLACE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)
"""What the system says where no file can be, however much room there is."""


@contextmanager
def whole(folder: Path, last: str = "") -> Iterator[Path]:
    """A scratch folder; its files move into `folder` together once the block has ended well.

    Args:
        folder: new, or with files that those of the same name replace.
        last: the file that moves last, so that whoever finds it finds the others.

    Raises:
        CheckpointError: writing failed; `folder` is as it was.
    """
    # An existing folder may be a disk of its own, or in a place where nothing else may be written.
    scratch = folder / SCRATCH if folder.is_dir() else folder.parent / f".{folder.name}{SCRATCH}"
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        with saving(folder):
            scratch.mkdir(parents=True)
            yield scratch
            for path in scratch.rglob("*"):
                if path.is_file():
                    with path.open("rb") as file:
                        os.fsync(file.fileno())
            if not folder.exists():
                scratch.rename(folder)
                return
            for path in sorted(scratch.iterdir(), key=lambda path: (path.name == last, path.name)):
                path.replace(folder / path.name)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def saving(folder: Path) -> Iterator[None]:
    """Turn what goes wrong while files are written to `folder` into one sentence.

    Raises:
        CheckpointError: the disk is full, or the folder can't be written.
    """
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or (str(error).splitlines() or [type(error).__name__])[0]
        if isinstance(error, SafetensorError):
            reason = re.sub(r"^.*I/O error: (.*) \(os error \d+\)$", r"\1", reason)
        elif isinstance(error, RuntimeError):
            # What torch.save says of a file that could not be finished; it does not know why.
            if "inline_container" not in reason:
                raise
            reason = "a file was cut short"
        advice = "give another folder" if getattr(error, "errno", None) in NO_PLACE else "make room"
        raise CheckpointError(
            f"could not save to {folder}: {reason}; what was there before is untouched, "
            f"{advice} and run the command again"
        ) from error

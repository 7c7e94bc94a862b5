"""How long work tells that it is getting on, without knowing who listens.

The core reports to a `Progress`. The command line passes one that draws bars; who passes none gets `Silent`.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol


class Task(Protocol):
    """One piece of work whose length is known."""

    def advance(self, n: int = 1) -> None:
        """`n` more are done."""
        ...

    def update(self, description: str) -> None:
        """Describe the work anew, with the latest loss for instance."""
        ...


class Progress(Protocol):
    """Someone who listens."""

    def task(self, description: str, total: int) -> AbstractContextManager[Task]:
        """Announce work of `total` pieces; it is over when the `with` block is, whether finished or not."""
        ...

    def say(self, message: str) -> None:
        """Tell one line."""
        ...


class Silent:
    """Nobody listens. Both a `Progress` and the `Task` it hands out."""

    def task(self, description: str, total: int) -> AbstractContextManager[Task]:
        """Nothing happens."""
        return nullcontext(self)

    def say(self, message: str) -> None:
        """Nothing happens."""

    def advance(self, n: int = 1) -> None:
        """Nothing happens."""

    def update(self, description: str) -> None:
        """Nothing happens."""

from __future__ import annotations

import pytest

from compresskit.progress import Progress, Silent, Task


def test_silent_is_a_progress_and_its_own_task(capsys):
    progress: Progress = Silent()
    with progress.task("prune", 3) as task:
        listener: Task = task
        listener.advance()
        listener.advance(2)
        listener.update("prune again")
    progress.say("done")
    assert capsys.readouterr() == ("", "")


def test_silent_hides_no_error():
    with pytest.raises(KeyError), Silent().task("prune", 3):
        raise KeyError("x")

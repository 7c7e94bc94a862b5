"""What every test needs: no network, no folder of the user's, one thread, and the way to the real text."""

from __future__ import annotations

import gc
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent

# Set before torch and the Hugging Face libraries are imported, which read them once; processes that tests start inherit
# them. One thread, because tests run side by side and because sums must not depend on how many threads share them.
os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "MPLBACKEND": "agg",
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
os.environ.pop("COMPRESSKIT_PLUGINS", None)


def pytest_configure(config: pytest.Config) -> None:
    """Give this process a Hugging Face cache of its own, gone at the end."""
    cache = tempfile.mkdtemp(prefix="compresskit-tests-")
    config.add_cleanup(lambda: shutil.rmtree(cache, ignore_errors=True))
    os.environ["HF_HOME"] = cache


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a CUDA device where there is none."""
    marked = [item for item in items if item.get_closest_marker("cuda")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real text, from COMPRESSKIT_DATA or beside the repository."""
    named = os.environ.get("COMPRESSKIT_DATA")
    folder = Path(named) if named else ROOT.parent / "shared" / "data"
    if not (folder / "glue").is_dir():
        pytest.skip(f"no real text in {folder}; set COMPRESSKIT_DATA to the folder that holds glue/")
    return folder


@pytest.fixture(autouse=True, scope="module")
def plugins() -> Iterator[None]:
    """Of all installed plugins the example alone, so that lists of what is known do not grow with each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COMPRESSKIT_PLUGINS", "margin")
        yield


@pytest.fixture
def quick_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two passes are enough where nobody looks at the times."""
    from compresskit.runtime import latency

    monkeypatch.setattr("compresskit.speed.milliseconds", partial(latency.milliseconds, repeats=2, min_seconds=0))


@pytest.fixture(scope="module")
def light_collections() -> Iterator[None]:
    """Each training collects garbage; what is here already need not be looked at each time."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="module")
def zygote() -> Iterator[Callable[..., dict[str, Any]]]:
    """Runs `apply` in processes of its own, which need not import everything again; see zygote.py."""
    command = [sys.executable, str(Path(__file__).with_name("zygote.py"))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"

        def run(**what: Any) -> dict[str, Any]:
            process.stdin.write(json.dumps(what) + "\n")
            process.stdin.flush()
            return json.loads(process.stdout.readline())

        yield run
        process.stdin.close()


@pytest.fixture
def told() -> Any:
    """A `Progress` that keeps what is said in `messages`."""
    from compresskit.progress import Silent

    class Listener(Silent):
        def __init__(self) -> None:
            self.messages: list[str] = []

        def say(self, message: str) -> None:
            self.messages.append(message)

    return Listener()

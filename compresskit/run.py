"""How a recipe is carried out on this machine: device, precision, memory, progress."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch

from compresskit.errors import CompresskitError
from compresskit.progress import Progress, Silent


@dataclass(frozen=True)
class Run:
    """Everything about a run that is not in the recipe. But for `max_tokens`, it changes the result by rounding only.

    Args:
        device: `cpu` or `cuda`.
        bf16: whether matrices are multiplied in bfloat16 under autocast.
        max_tokens: texts are cut to this many tokens.
        cache_bytes: memory that a frozen teacher's hidden states may take; beyond it they are computed again in each
            batch. And memory that the banks of a step may take, which are refused beyond it.
        checkpoint_steps: optimizer steps between two checkpoints inside a long training.
        trackers: names of experiment trackers, passed on to transformers.Trainer as `report_to`.
        timing: whether milliseconds are measured for the report of `apply`.
        progress: where progress is shown.
    """

    device: str = "cpu"
    bf16: bool = False
    max_tokens: int = 128
    cache_bytes: int = 4 * 2**30
    checkpoint_steps: int = 200
    trackers: tuple[str, ...] = ()
    timing: bool = True
    progress: Progress = field(default_factory=Silent)

    def autocast(self) -> AbstractContextManager[object]:
        """The precision of forward passes outside the Trainer."""
        return torch.autocast(self.device, dtype=torch.bfloat16) if self.bf16 else nullcontext()


def pick_device(wish: str) -> str:
    """`auto`, `cpu` or `cuda` to `cpu` or `cuda`.

    Raises:
        CompresskitError: CUDA is asked for and there is none.
    """
    if wish == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if wish == "cuda" and not torch.cuda.is_available():
        raise CompresskitError(
            "--device cuda: torch sees no CUDA device here; use --device cpu or install a CUDA build of torch"
        )
    return wish


def pick_bf16(wish: str, device: str) -> bool:
    """`auto`, `bf16` or `fp32` to whether to use bfloat16: automatically where the processor multiplies it natively."""
    if wish != "auto":
        return wish == "bf16"
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("bf16"))

"""What keeping freed memory, drawing dropout from bits and plain attention save in a training step on a processor.

    python benchmarks/processor.py --model CHECKPOINT

One step is forward, backward and AdamW of a multi-exit model on 32 texts of 56 random tokens. Each setting runs in a
process of its own, in turns; the time is the median over the steps of a process, then over rounds.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from contextlib import nullcontext

import torch
from torch.nn.functional import cross_entropy

from compresskit.checkpoint import load
from compresskit.edits import AddExits
from compresskit.run import pick_bf16
from compresskit.runtime import processor
from compresskit.strategies.tanh_heads import MeanTanh
from compresskit.surgery import perform

SETTINGS = {
    "none of it": (),
    "freed memory kept": ("keep",),
    "and dropout from bits": ("keep", "bits"),
    "and plain attention": ("keep", "bits", "plain"),
}


def step_times(path: str, steps: int, settings: list[str]) -> list[float]:
    """Seconds of each step, without the first three."""
    if "keep" in settings:
        processor.keep_freed_memory()
    if "plain" not in settings:
        processor.attend = torch.nn.functional.scaled_dot_product_attention
    torch.manual_seed(0)
    model = load(path, ("0", "1")).model
    perform(AddExits(tuple(range(1, model.depth + 1)), MeanTanh(), False), model)
    model.train()
    ids, labels = torch.randint(1000, 20000, (32, 56)), torch.randint(0, 2, (32,))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    times = []
    with processor.quick_gradients(model, "cpu") if "bits" in settings else nullcontext():
        for _ in range(steps + 3):
            began = time.perf_counter()
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=pick_bf16("auto", "cpu")):
                trace = model.trace(batch, gradient_equilibrium=True)
            torch.stack([cross_entropy(logits.float(), labels) for logits in trace.logits.values()]).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
            times.append(time.perf_counter() - began)
    return times[3:]


def main() -> None:
    """Print the milliseconds of a step under each setting."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--one", nargs="*", choices=["keep", "bits", "plain"], help="run this setting here and print seconds"
    )
    options = parser.parse_args()
    if options.one is not None:
        print(statistics.median(step_times(options.model, options.steps, options.one)))
        return
    seen: dict[str, list[float]] = {name: [] for name in SETTINGS}
    for _ in range(options.rounds):
        for name, words in SETTINGS.items():
            again = [sys.executable, __file__, "--model", options.model, "--steps", str(options.steps), "--one", *words]
            seen[name].append(float(subprocess.run(again, check=True, stdout=subprocess.PIPE, text=True).stdout))
    for name, seconds in seen.items():
        spread = f"{min(seconds) * 1e3:.0f} to {max(seconds) * 1e3:.0f}"
        print(f"{name}: {statistics.median(seconds) * 1e3:.0f} ms a step ({spread})")


if __name__ == "__main__":
    main()

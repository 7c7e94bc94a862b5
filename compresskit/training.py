"""Training on transformers.Trainer, with losses from Distillers. What is ours: the loss, the batches' order, two learning rates.

bf16, gradient accumulation, several processes, checkpoints and trackers are the Trainer's.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from compresskit.batches import Collate, Encoded, LengthGrouped
from compresskit.checkpoint import quiet
from compresskit.interfaces import Trace
from compresskit.losses import Losses, needs_hidden, switched_on, total
from compresskit.modules import CompressedForSequenceClassification
from compresskit.progress import Task
from compresskit.run import Run
from compresskit.teachers import Teacher
from compresskit.verbs import Training

WHOLE = "whole"
"""Name of the empty file that marks a checkpoint as completely written."""


@dataclass(frozen=True)
class Lesson:
    """One training: who learns what from whom.

    Args:
        model: changed in place.
        rows, collate: the training data.
        losses, teacher: what is minimised.
        options: the verb's training options.
        learning_rate: after `restore`.
        seed: of this step.
        folder: where Trainer checkpoints go while it runs.
    """

    model: CompressedForSequenceClassification
    rows: Encoded
    collate: Collate
    losses: Losses
    teacher: Teacher | None
    options: Training
    learning_rate: float
    seed: int
    folder: Path
    run: Run

    @property
    def exits(self) -> tuple[int, ...]:
        """Layers whose exits count."""
        return self.model.exit_layers if self.options.exits == "all" else (self.model.depth,)

    @property
    def equilibrium(self) -> bool:
        """Whether gradients are rescaled between layers; with one exit there is nothing to balance."""
        return self.options.gradient_equilibrium and len(self.exits) > 1


class LossTrainer(Trainer):  # type: ignore[misc]
    """A Trainer whose loss is a lesson's."""

    loss_is_scaled_for_ga = False  # each Distiller returns the mean over its batch

    def __init__(self, lesson: Lesson, task: Task) -> None:
        self.lesson = lesson
        super().__init__(
            model=lesson.model,
            args=_arguments(lesson),
            train_dataset=lesson.rows,
            data_collator=lesson.collate,
            optimizers=(_optimizer(lesson), None),
            callbacks=[_Ticks(task)],
        )
        self.remove_callback(PrinterCallback)

    def _get_train_sampler(self, train_dataset: Any = None) -> LengthGrouped:
        return LengthGrouped(self.lesson.rows.lengths, self.lesson.options.batch_size, self.lesson.seed)

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Tensor], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor:
        """The weighted sum of the losses that are on by now."""
        lesson = self.lesson
        on = switched_on(lesson.losses, self.state.global_step / max(self.state.max_steps, 1))
        output = model(
            **{name: inputs[name] for name in lesson.model.input_names if name in inputs},
            record_exits=lesson.exits,
            record_hidden=any(loss.distiller.needs_hidden for loss in on),
            gradient_equilibrium=lesson.equilibrium,
        )
        student = Trace(output.exit_logits, output.hidden_states or (), inputs["attention_mask"])
        return total(on, student, lesson.teacher, inputs)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        with quiet():
            super()._save_checkpoint(model, trial)
        folder = Path(self.args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            (folder / WHOLE).touch()


class _Ticks(TrainerCallback):  # type: ignore[misc]
    """Moves our progress bar instead of tqdm's."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.shown = 0

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Advance to the step that is done; more than one after a resume."""
        self.task.advance(state.global_step - self.shown)
        self.shown = state.global_step


def teach(lesson: Lesson) -> float:
    """Train the lesson's model; from its last whole checkpoint where one is left.

    Returns:
        Seconds that it took, this time.
    """
    began = time.perf_counter()
    if lesson.teacher is not None:
        lesson.teacher.study(lesson.rows, lesson.collate, needs_hidden(lesson.losses))
    moving = _freeze(lesson)
    steps = optimizer_steps(lesson.options, len(lesson.rows))
    with lesson.run.progress.task("training", steps) as task:
        trainer = LossTrainer(lesson, task)
        trainer.train(resume_from_checkpoint=last_checkpoint(lesson.folder))
    # Accelerate wraps `forward` for bf16 and leaves it wrapped; the next step would wrap it again.
    trainer.accelerator.unwrap_model(trainer.model_wrapped, keep_fp32_wrapper=False)
    trainer.accelerator.free_memory()
    for parameter in moving:
        parameter.requires_grad_(True)
        parameter.grad = None
    lesson.model.zero_grad(set_to_none=True)
    lesson.model.eval()
    return time.perf_counter() - began


def optimizer_steps(options: Training, rows: int) -> int:
    """How many optimizer steps the options mean for that many rows; a short last batch of an epoch is skipped."""
    return max(round(max(rows // options.batch_size, 1) * options.epochs), 1)


def last_checkpoint(folder: Path) -> str | None:
    """The latest whole Trainer checkpoint; half-written ones are deleted."""
    found: dict[int, Path] = {}
    for path in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        if (path / WHOLE).is_file():
            found[int(path.name.rpartition("-")[2])] = path
        else:
            shutil.rmtree(path)
    return str(found[max(found)]) if found else None


def _arguments(lesson: Lesson) -> TrainingArguments:
    options, run = lesson.options, lesson.run
    return TrainingArguments(
        output_dir=str(lesson.folder),
        max_steps=optimizer_steps(options, len(lesson.rows)),
        # One batch is split over the processes, so the recipe's batch size is the global one however many there are.
        per_device_train_batch_size=-(-options.batch_size // options.gradient_accumulation),
        accelerator_config={"split_batches": True},
        gradient_accumulation_steps=options.gradient_accumulation,
        learning_rate=lesson.learning_rate,
        lr_scheduler_type=options.schedule if options.schedule != "constant" else "constant_with_warmup",
        warmup_steps=options.warmup,
        weight_decay=options.weight_decay,
        max_grad_norm=options.max_grad_norm,
        seed=lesson.seed,
        bf16=run.bf16,
        use_cpu=run.device == "cpu",
        dataloader_drop_last=len(lesson.rows) >= options.batch_size,
        dataloader_pin_memory=run.device == "cuda",
        remove_unused_columns=False,
        ddp_find_unused_parameters=True,
        save_strategy="steps",
        save_steps=run.checkpoint_steps,
        save_total_limit=1,
        logging_strategy="steps",
        logging_steps=50,
        report_to=list(run.trackers) or "none",
        disable_tqdm=True,
        log_level="error",
    )


def _optimizer(lesson: Lesson) -> torch.optim.Optimizer:
    """AdamW; no decay on biases and norms; exit heads may have a learning rate of their own."""
    options = lesson.options
    head_rate = lesson.learning_rate
    if options.exit_learning_rate is not None:
        head_rate = options.exit_learning_rate * lesson.learning_rate / options.learning_rate
    by_kind: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in lesson.model.named_parameters():
        if parameter.requires_grad:
            by_kind.setdefault((name.startswith("exits."), parameter.ndim > 1), []).append(parameter)
    groups = [
        {
            "params": parameters,
            "lr": head_rate if head else lesson.learning_rate,
            "weight_decay": options.weight_decay if decay else 0.0,
        }
        for (head, decay), parameters in by_kind.items()
    ]
    return torch.optim.AdamW(groups, lr=lesson.learning_rate, eps=1e-8, fused=True)


def _freeze(lesson: Lesson) -> list[nn.Parameter]:
    """Stop what the options say must not move, and return it."""
    if lesson.options.train == "all":
        return []
    fixed = [p for name, p in lesson.model.named_parameters() if not name.startswith("exits.")]
    for parameter in fixed:
        parameter.requires_grad_(False)
    return fixed


def record_of(lesson: Lesson, seconds: float) -> Mapping[str, float]:
    """What the report says of a training."""
    return {"seconds": seconds, "steps": optimizer_steps(lesson.options, len(lesson.rows))}

"""Training on transformers.Trainer. What is ours: the losses, the order of the batches, two learning rates.

bf16, gradient accumulation, several processes, checkpoints and trackers are the Trainer's.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from compresskit.anatomy import find
from compresskit.batches import Collate, Encoded, LengthGrouped
from compresskit.checkpoint import quiet
from compresskit.errors import CompresskitError
from compresskit.interfaces import Bank, Masks, Trace
from compresskit.losses import (
    Losses,
    looks_at_hidden,
    needs_attention,
    needs_hidden,
    of_teacher,
    switched_on,
    total,
)
from compresskit.masking import sizes
from compresskit.model import CompressedForSequenceClassification
from compresskit.progress import Task
from compresskit.run import Run
from compresskit.runtime.processor import quick_gradients
from compresskit.teachers import Teacher
from compresskit.verbs import Training, optimizer_steps
from compresskit.writing import saving

SHARE, MASK = "exits_share.", "mask."
"""What the names of weights that all exits use begin with, and those of a mask's own."""
TENSORBOARD = "TENSORBOARD_LOGGING_DIR"
"""The variable by which transformers is told where TensorBoard's files go."""
STEADY = "steady"
"""Marks an optimizer group whose learning rate stays as it is."""
WHOLE = "whole"
"""Name of the file that marks a checkpoint as completely written. It holds the seconds of training up to there."""


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
        logs: where trackers that write files put them.
        banks: that the losses name, by name.
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
    logs: Path | None = None
    banks: Mapping[str, Bank] = field(default_factory=dict)

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

    def __init__(self, lesson: Lesson, task: Task, seconds: float) -> None:
        self.lesson = lesson
        self.began = time.perf_counter() - seconds
        self.order = LengthGrouped(lesson.rows.lengths, lesson.options.batch_size, lesson.seed)
        self.number = 0
        super().__init__(
            model=lesson.model,
            args=_arguments(lesson),
            train_dataset=lesson.rows,
            data_collator=lesson.collate,
            optimizers=(_optimizer(lesson), None),
            callbacks=[_Ticks(task, self.order)],
        )
        self.remove_callback(PrinterCallback)

    def _get_train_sampler(self, train_dataset: Any = None) -> LengthGrouped:
        return self.order

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """A forward and a backward pass, or as many as the model's mask makes."""
        mask, losses = self.lesson.model.mask, []
        for self.number in range(1 if mask is None else mask.passes):
            losses.append(super().training_step(model, inputs, num_items_in_batch))
        return torch.stack(losses).sum()

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """The usual one, which leaves the learning rates of a mask's own parameters as they are."""
        scheduler = super().create_scheduler(num_training_steps, optimizer)
        for place, group in enumerate(scheduler.optimizer.param_groups):
            if group.get(STEADY):
                scheduler.lr_lambdas[place] = _steady
                group["lr"] = scheduler.base_lrs[place]
        return scheduler

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        """A mask's own gradients are no part of the norm: they would have the model learn more slowly."""
        own = set() if self.lesson.model.mask is None else set(self.lesson.model.mask.parameters())
        rest = [parameter for parameter in model.parameters() if parameter not in own]
        return self.accelerator.clip_grad_norm_(rest, self.args.max_grad_norm)

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Tensor], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor:
        """The weighted sum of the losses that are on by now."""
        lesson = self.lesson
        on = switched_on(lesson.losses, self.state.global_step / max(self.state.max_steps, 1))
        output = model(
            **{name: inputs[name] for name in lesson.model.input_names if name in inputs},
            record_exits=lesson.exits,
            record_hidden=any(looks_at_hidden(loss.distiller) for loss in on),
            record_attention=any(loss.distiller.needs_attention for loss in on),
            gradient_equilibrium=lesson.equilibrium,
            mask_pass=None
            if lesson.model.mask is None
            else (self.number, self.state.global_step, self.state.max_steps),
        )
        student = Trace(
            output.exit_logits,
            output.hidden_states or (),
            inputs["attention_mask"],
            signals=output.exit_signals or {},
            step=self.state.global_step,
            steps=self.state.max_steps,
            attention=output.projections or (),
            projected=output.projected or (),
            alive=output.alive or (),
            banks=lesson.banks,
            ran=output.ran or (),
        )
        loss = total(on, student, lesson.teacher, inputs)
        if output.penalty is not None:
            loss = loss + output.penalty
        if not loss.requires_grad:
            raise CompresskitError(
                f"{lesson.options.label}: no loss that is on moves what 'train: {lesson.options.train}' lets move; "
                "add a loss of the exits' answers, such as predictions"
            )
        return loss

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Write a checkpoint, mark it as whole, and only then delete those before it."""
        folder = Path(self.args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        try:
            with saving(folder):
                super()._save_checkpoint(model, trial)
                self.accelerator.wait_for_everyone()
                if self.args.should_save:
                    (folder / WHOLE).write_text(str(time.perf_counter() - self.began), encoding="utf-8")
        except CompresskitError:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        if self.args.should_save:
            for other in _checkpoints(folder.parent):
                if other != folder:
                    shutil.rmtree(other, ignore_errors=True)


class _Ticks(TrainerCallback):  # type: ignore[misc]
    """Moves our progress bar instead of tqdm's, and tells the sampler the epoch."""

    def __init__(self, task: Task, order: LengthGrouped) -> None:
        self.task = task
        self.order = order
        self.shown = 0

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The Trainer tells the sampler too, but after a resume with several processes it does not reach it."""
        self.order.set_epoch(int(state.epoch or 0))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Advance to the step that is done; more than one after a resume."""
        self.task.advance(state.global_step - self.shown)
        self.shown = state.global_step
        if state.global_step >= state.max_steps:
            control.should_save = False  # the finished step is saved next

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Show the mean loss of the steps since the last time."""
        if logs and "loss" in logs:
            self.task.update(f"training, loss {float(logs['loss']):.3g}")


def teach(lesson: Lesson) -> tuple[float, Masks | None]:
    """Train the lesson's model; from its last whole checkpoint where one is left.

    Returns:
        Seconds that it took, with those before the checkpoint, and what is left of the model by its mask.

    Raises:
        CompresskitError: the weights are no longer finite, or a checkpoint could not be saved.
    """
    began = time.perf_counter()
    if lesson.teacher is not None:
        taught = of_teacher(lesson.losses)
        lesson.teacher.study(lesson.rows, lesson.collate, needs_hidden(taught) and not needs_attention(taught))
        if any(loss.distiller.projects for loss in lesson.losses.values()):
            lesson.model.projection = _projection(lesson.model, lesson.teacher)
    masker = lesson.options.mask
    if masker is not None:
        lesson.model.mask = masker.build(sizes(lesson.model)).to(lesson.model.device)
    fixed = _freeze(lesson)
    steps = optimizer_steps(lesson.options, len(lesson.rows))
    checkpoint, before = last_checkpoint(lesson.folder)
    before += time.perf_counter() - began
    processor = quick_gradients(lesson.model, lesson.run.device)
    trainer = None
    try:
        with quiet(), logging_to(lesson.logs), processor, lesson.run.progress.task("training", steps) as task:
            trainer = LossTrainer(lesson, task, before)
            trainer.train(resume_from_checkpoint=checkpoint)
        left = _left(lesson.model)
    finally:
        _clear_up(lesson.model, trainer, fixed)
    _check_finite(lesson)
    return time.perf_counter() - trainer.began, left


def _left(model: CompressedForSequenceClassification) -> Masks | None:
    if model.mask is None:
        return None
    model.mask.eval()
    with torch.no_grad():
        return model.mask.final()


def _clear_up(
    model: CompressedForSequenceClassification, trainer: LossTrainer | None, fixed: list[nn.Parameter]
) -> None:
    """Leave the model as a training found it but for its weights, also after one that failed."""
    if trainer is not None:
        # Accelerate wraps `forward` for bf16 and leaves it wrapped; the next training would wrap it again. It also
        # leaves a mark on the model, for which the next training would not wrap it at all and go on in fp32.
        trainer.accelerator.unwrap_model(trainer.model_wrapped, keep_fp32_wrapper=False)
        for name in ("forward", "_is_accelerate_prepared"):
            model.__dict__.pop(name, None)
        trainer.accelerator.free_memory()
    model.projection = model.mask = None
    for parameter in fixed:
        parameter.requires_grad_(True)
        parameter.grad = None
    model.zero_grad(set_to_none=True)
    model.eval()


def _projection(student: CompressedForSequenceClassification, teacher: Teacher) -> nn.Linear:
    """From hidden states of the student's size to the teacher's; the identity at first where they are equal."""
    made = nn.Linear(student.hidden_size, teacher.model.hidden_size)
    if made.in_features == made.out_features:
        nn.init.eye_(made.weight)
        nn.init.zeros_(made.bias)
    return made.to(device=student.device)


def _steady(step: int) -> float:
    """The factor of a learning rate that no schedule moves."""
    return 1.0


@contextmanager
def logging_to(folder: Path | None) -> Iterator[None]:
    """Have TensorBoard's files outlive the training's folder, unless the user has said where they go."""
    if folder is None or TENSORBOARD in os.environ:
        yield
        return
    os.environ[TENSORBOARD] = str(folder)
    try:
        yield
    finally:
        del os.environ[TENSORBOARD]


def _check_finite(lesson: Lesson) -> None:
    for weight in lesson.model.parameters():
        if not bool(torch.isfinite(weight).all()):
            raise CompresskitError(
                f"{lesson.options.label}: training diverged, weights are NaN or infinite; give it a lower learning_rate"
            )


def last_checkpoint(folder: Path) -> tuple[str | None, float]:
    """The latest whole Trainer checkpoint, if any, and the seconds of training up to it; half-written ones go."""
    whole = []
    for path in _checkpoints(folder):
        if (path / WHOLE).is_file():
            whole.append(path)
        else:
            shutil.rmtree(path, ignore_errors=True)
    if not whole:
        return None, 0.0
    return str(whole[-1]), float((whole[-1] / WHOLE).read_text(encoding="utf-8") or 0)


def _checkpoints(folder: Path) -> list[Path]:
    """In the order of their steps."""
    return sorted(folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*"), key=lambda path: int(path.name.rpartition("-")[2]))


def _arguments(lesson: Lesson) -> TrainingArguments:
    options, run = lesson.options, lesson.run
    arguments = TrainingArguments(
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
        logging_strategy="steps",
        logging_steps=50,
        report_to=list(run.trackers) or "none",
        disable_tqdm=True,
        log_level="error",
    )
    # One process that sees several GPUs would give each of them a batch of the recipe's size.
    arguments._n_gpu = min(arguments.n_gpu, 1)  # noqa: SLF001
    return arguments


def _optimizer(lesson: Lesson) -> torch.optim.Optimizer:
    """AdamW; no decay on biases and norms; exit heads may have a learning rate of their own."""
    options = lesson.options
    head_rate = lesson.learning_rate
    if options.exit_learning_rate is not None:
        head_rate = options.exit_learning_rate * lesson.learning_rate / options.learning_rate
    by_kind: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in lesson.model.named_parameters():
        if parameter.requires_grad and not name.startswith(MASK):
            by_kind.setdefault((name.startswith(("exits.", SHARE)), parameter.ndim > 1), []).append(parameter)
    groups = [
        {
            "params": parameters,
            "lr": head_rate if head else lesson.learning_rate,
            "weight_decay": options.weight_decay if decay else 0.0,
        }
        for (head, decay), parameters in by_kind.items()
    ]
    if lesson.model.mask is not None:
        groups += [{"weight_decay": 0.0, STEADY: True, **group} for group in lesson.model.mask.groups()]
    return torch.optim.AdamW(groups, lr=lesson.learning_rate, eps=1e-8, fused=True)


def _freeze(lesson: Lesson) -> list[nn.Parameter]:
    """Stop what the options say must not move, and return it."""
    train, model = lesson.options.train, lesson.model
    if train == "all":
        return []
    if train == "layers":
        parts = (find(model.network, model.anatomy.embeddings), model.embeddings_project)
        fixed = [parameter for part in parts if part is not None for parameter in part.parameters()]
        for parameter in fixed:
            parameter.requires_grad_(False)
        return fixed
    every = train == "exits"
    heads = [f"exits.{layer}." for layer in model.exit_layers if every or layer < model.depth]
    # What all heads share would move the last one's answer too, unless that is the original's read-out.
    shared = (SHARE,) if every or model.shape.read_out else ()
    moving = ("projection.", MASK, *shared, *heads)
    fixed = [p for name, p in model.named_parameters() if not name.startswith(moving)]
    for parameter in fixed:
        parameter.requires_grad_(False)
    return fixed

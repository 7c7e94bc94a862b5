"""What every ExitPolicy must do, on trails of one to three exits with clear and doubtful examples."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from compresskit.catalogue import try_build
from compresskit.evaluate import options_at, settings
from compresskit.interfaces import ExitPolicy, ExitTrail
from compresskit.testing.requirements import like, other_luck, require, same

EXAMPLES = 16


def checks() -> Iterator[tuple[str, Callable[[ExitPolicy], None]]]:
    """Every check with its name."""
    for check in (
        answers_every_example,
        looks_at_each_example_alone,
        answers_the_same_again,
        changes_nothing,
        sweeps_from_the_earliest_leaving,
    ):
        yield check.__name__, check


def answers_every_example(policy: ExitPolicy) -> None:
    """(alive,) true or false, for any number of classes, for one example and many, in any precision."""
    for trail in _trails():
        for dtype in (torch.float32, torch.bfloat16):
            cast = ExitTrail(tuple(logits.to(dtype) for logits in trail.logits), trail.exits, trail.depth)
            for few in (cast, _rows(cast, torch.tensor([0]))):
                answer = policy.leave(few)
                alive = len(few.logits[-1])
                require(
                    _what(answer) == f"torch.bool of shape ({alive},)",
                    type(policy),
                    f"returns {_what(answer)} for {alive} examples; one true or false for each",
                )


def looks_at_each_example_alone(policy: ExitPolicy) -> None:
    """Batched inference must answer as one-by-one inference does."""
    for trail in _trails():
        together = policy.leave(trail)
        alone = torch.cat([policy.leave(_rows(trail, torch.tensor([row]))) for row in range(EXAMPLES)])
        require(same(together, alone), type(policy), "answers otherwise for a batch than for each example alone")


def answers_the_same_again(policy: ExitPolicy) -> None:
    """No state between calls, and no chance."""
    for trail in _trails():
        answers = []
        for luck in (1, 2):
            with other_luck(luck):
                answers.append(policy.leave(trail))
        require(same(*answers), type(policy), "answers otherwise the second time; the trail is all it may look at")


def changes_nothing(policy: ExitPolicy) -> None:
    """The logits are the answers of those who leave."""
    for trail in _trails():
        before = [logits.clone() for logits in trail.logits]
        policy.leave(trail)
        unchanged = all(same(now, then) for now, then in zip(trail.logits, before, strict=True))
        require(unchanged, type(policy), "changes the logits that it is given; work on a copy")


def sweeps_from_the_earliest_leaving(policy: ExitPolicy) -> None:
    """The settings of its dial that `evaluate` tries are ones that it takes, and each lets no more leave than the last.

    Those of a policy without `settings` of its own are thresholds of entropies, from 0.6 down to 0.
    """
    for trail in _trails():
        tried = settings(policy, trail.logits[-1].shape[-1], trail.depth)
        made = [try_build(type(policy), options_at(policy, setting))[0] for setting in tried]
        refused = [setting for setting, variant in zip(tried, made, strict=True) if variant is None]
        named = f"{policy.dial} {', '.join(f'{setting:g}' for setting in refused)}"
        require(not refused, type(policy), f"takes no {named}, which evaluate tries; give it a `settings` method")
        left = [int(variant.leave(trail).sum()) for variant in made if isinstance(variant, ExitPolicy)]
        listed = ", ".join(f"{setting:g}" for setting in tried)
        require(
            left == sorted(left, reverse=True),
            type(policy),
            f"lets more leave at later settings of {listed}; give it a `settings` method, the earliest leaving first",
        )


def _trails() -> Iterator[ExitTrail]:
    """Exits 1 to 3 of 4, for regression, two and three classes; the first examples are sure, tied and in between."""
    for classes in (1, 2, 3):
        found = []
        for number in range(3):
            logits = like((EXAMPLES, classes), seed=10 * classes + number, scale=2)
            logits[0, 0], logits[1] = 1000, 0
            found.append(logits)
            yield ExitTrail(tuple(found), tuple(range(1, number + 2)), 4)


def _rows(trail: ExitTrail, rows: Tensor) -> ExitTrail:
    return ExitTrail(tuple(logits[rows] for logits in trail.logits), trail.exits, trail.depth)


def _what(answer: object) -> str:
    return f"{answer.dtype} of shape {tuple(answer.shape)}" if isinstance(answer, Tensor) else repr(answer)

"""Each check of compresskit.testing fails for a strategy that deserves it, and says why."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Annotated, ClassVar

import pytest
import torch
from pydantic import BeforeValidator, Field

from compresskit import Distiller, ExitPolicy, Factorizer, Pruner, Strategy
from compresskit.errors import CompresskitError, PluginError
from compresskit.testing import check_strategy, parametrize, strategy_checks

# --- how to make a strategy with one flaw


def make(base, **members):
    """A strategy with these members, else sound."""
    namespace = {"__doc__": "A strategy for a test.", "name": "for-a-test", "__annotations__": {}} | members
    return dataclass(frozen=True)(type("Odd", (base,), namespace))()


def score_by(function, **members):
    return make(Pruner, score=lambda self, group, context: function(group, context), **members)


def factor_by(function):
    return make(Factorizer, factor=lambda self, weight, rank, context: function(weight, rank))


def leave_by(function, **members):
    return make(ExitPolicy, leave=lambda self, trail: function(trail.logits[-1]), **members)


def lose_by(function, **members):
    return make(Distiller, loss=lambda self, student, teacher, batch: function(student, teacher, batch), **members)


def nobody(logits):
    return torch.zeros(len(logits), dtype=torch.bool)


def spectral(weight, rank):
    left, values, right = torch.linalg.svd(weight, full_matrices=False)
    return left[:, :rank] * values[:rank], right[:rank]


def squares(student, teacher, batch):
    return (student.last - teacher.last).square().mean()


MEMORY = itertools.count()


# --- sound ones


@dataclass(frozen=True)
class Patience(ExitPolicy):
    """Leave once `patience` exits in a row agreed."""

    name: ClassVar[str] = "patience"

    patience: int = 2

    def leave(self, trail):
        last = [logits.argmax(-1) for logits in trail.logits[-self.patience :]]
        agree = torch.stack([answer == last[0] for answer in last]).all(0)
        return agree & (len(last) == self.patience)


def test_sound_strategies_pass():
    check_strategy(Patience)
    check_strategy(Patience, patience=3)
    for sound in (
        score_by(lambda group, context: torch.rand(group.units, generator=context.generator)),
        factor_by(spectral),
        lose_by(squares),
    ):
        check_strategy(type(sound))


def test_check_strategy_stops_at_the_first_failure():
    with pytest.raises(AssertionError) as caught:
        check_strategy(type(score_by(lambda group, context: torch.zeros(1))))
    assert str(caught.value) == "Odd returns scores of shape (1,) for 4 heads of a bert; one per unit"


def test_parametrize_names_the_checks():
    found = parametrize(Patience(), Patience(patience=3))
    assert found["argnames"] == "check"
    assert found["ids"][0] == "Patience(patience=2)-is_a_frozen_dataclass"
    assert found["ids"][-1] == "Patience(patience=3)-sweeps_from_the_earliest_leaving"
    assert len(set(found["ids"])) == len(found["argvalues"])


def test_no_kind():
    with pytest.raises(AssertionError) as caught:
        strategy_checks(make(Strategy))
    assert (
        str(caught.value)
        == "Odd is neither a Pruner, a Factorizer, an ExitPolicy, a Distiller, an ExitHead nor a Masker"
    )


# --- one flaw each


class Heir(Patience):
    """Frozen by its parent alone."""


class Thawed(ExitPolicy):
    """Never frozen."""

    name: ClassVar[str] = "thawed"

    def leave(self, trail):
        return nobody(trail.logits[-1])


COMMON = [
    (dataclass(Thawed)(), "is_a_frozen_dataclass", "is not a frozen dataclass; use @dataclass(frozen=True)"),
    (Heir(), "is_a_frozen_dataclass", "is not a frozen dataclass; use @dataclass(frozen=True)"),
    *(
        (
            leave_by(nobody, name=name),
            "has_a_name",
            f"has the name {name!r}; recipes need one in small letters, digits and hyphens",
        )
        for name in ("Loud", "two words", 3)
    ),
    (leave_by(nobody, __doc__=None), "has_a_manual_page", "has no docstring; it is the manual page"),
    (
        leave_by(nobody, __doc__="Leave"),
        "has_a_manual_page",
        "has a docstring whose first paragraph does not end with a full stop",
    ),
    (
        leave_by(nobody, __annotations__={"threshold": "float"}, threshold=0.5),
        "has_a_manual_page",
        "has a docstring that does not explain the option 'threshold'",
    ),
    (
        leave_by(
            nobody,
            __annotations__={"threshold": Annotated[float, BeforeValidator(lambda value: value + 1)]},
            threshold=0.5,
        ),
        "options_survive_json",
        'becomes Odd(threshold=1.5) when its options {"threshold": 0.5} are read back',
    ),
]


def cutting(group, context):
    group.members[0].linear.weight.data[0] = 0
    return torch.zeros(group.units)


CUT = "network.distilbert.transformer.layer.0.attention.q_lin.weight"
LUCKY_SCORES = "scores a bert otherwise the second time; draw from context.generator and keep no state"
PRUNERS = [
    (  # right for whole layers, wrong for those that were cut
        score_by(lambda group, context: torch.zeros(4 if group.target == "heads" else group.units)),
        "scores_every_unit[roberta]",
        "returns scores of shape (4,) for 3 heads of a roberta; one per unit",
    ),
    (
        score_by(lambda group, context: torch.full((group.units,), torch.inf)),
        "scores_every_unit[roberta]",
        "returns NaN or infinity for 4 heads of a roberta",
    ),
    (
        score_by(lambda group, context: torch.rand(group.units)),
        "decides_by_the_generator_alone[bert]",
        LUCKY_SCORES,
    ),
    (
        score_by(lambda group, context: torch.full((group.units,), next(MEMORY))),
        "decides_by_the_generator_alone[bert]",
        LUCKY_SCORES,
    ),
    (
        score_by(cutting),
        "changes_nothing[distilbert]",
        f"changes the weight {CUT} of a distilbert; return scores only",
    ),
]


def turned_by_luck(weight, rank):
    turn = torch.linalg.qr(torch.randn(rank, rank)).Q
    left, right = spectral(weight, rank)
    return left @ turn, turn.T @ right


FACTORIZERS = [
    (
        factor_by(lambda weight, rank: (weight, torch.eye(weight.shape[1]))),
        "has_thin_factors",
        "returns factors of shapes [(40, 8), (8, 8)] for rank 1 of (40, 8)",
    ),
    *(
        (
            factor_by(lambda weight, rank, spoil=spoil: tuple(map(spoil, spectral(weight, rank)))),
            "has_thin_factors",
            "returns factors that are not finite float32 at rank 1",
        )
        for spoil in (torch.Tensor.double, torch.log)
    ),
    (
        factor_by(lambda weight, rank: spectral(weight / 2, rank)),
        "loses_nothing_at_full_rank",
        "loses 0.5 of a (40, 8) matrix at full rank",
    ),
    (
        factor_by(turned_by_luck),
        "decides_by_the_generator_alone",
        "factors otherwise the second time; draw from context.generator and keep no state",
    ),
    (
        factor_by(lambda weight, rank: spectral(weight.sub_(weight.mean()), rank)),
        "changes_nothing",
        "changes the weight that it is given; work on a copy",
    ),
]


@dataclass(frozen=True)
class Likely(ExitPolicy):
    """Leaves above a probability, so that a higher threshold lets fewer leave."""

    name: ClassVar[str] = "likely"

    threshold: float = 0.5

    def leave(self, trail):
        return trail.logits[-1].float().softmax(-1).amax(-1) > self.threshold


@dataclass(frozen=True)
class Narrow(ExitPolicy):
    """Takes no threshold below 0.2."""

    name: ClassVar[str] = "narrow"

    threshold: Annotated[float, Field(ge=0.2)] = 0.5

    def leave(self, trail):
        return nobody(trail.logits[-1])


@dataclass(frozen=True)
class Backwards(Likely):
    """Says its settings in the wrong order."""

    name: ClassVar[str] = "backwards"

    def settings(self, classes, depth):
        return (0.9, 0.1)


FORGETFUL = "answers otherwise the second time; the trail is all it may look at"
EXIT_POLICIES = [
    (
        leave_by(lambda logits: logits.amax(-1)),
        "answers_every_example",
        "returns torch.float32 of shape (16,) for 16 examples; one true or false for each",
    ),
    (
        leave_by(lambda logits: logits.mean() > 1),
        "answers_every_example",
        "returns torch.bool of shape () for 16 examples; one true or false for each",
    ),
    (
        leave_by(lambda logits: True),
        "answers_every_example",
        "returns True for 16 examples; one true or false for each",
    ),
    (
        leave_by(lambda logits: logits[:, 0] >= logits[:, 0].median()),
        "looks_at_each_example_alone",
        "answers otherwise for a batch than for each example alone",
    ),
    (leave_by(lambda logits: torch.rand(len(logits)) > 0.5), "answers_the_same_again", FORGETFUL),
    (
        leave_by(lambda logits: torch.full((len(logits),), next(MEMORY) % 2 == 0)),
        "answers_the_same_again",
        FORGETFUL,
    ),
    (
        leave_by(lambda logits: logits.mul_(2)[:, 0] > 1),
        "changes_nothing",
        "changes the logits that it is given; work on a copy",
    ),
    (
        Likely(),
        "sweeps_from_the_earliest_leaving",
        (
            "lets more leave at later settings of 0.7, 0.65, 0.6, 0.55, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05, 0; "
            "give it a `settings` method, the earliest leaving first"
        ),
    ),
    (
        Narrow(),
        "sweeps_from_the_earliest_leaving",
        "takes no threshold 0.1, 0.05, 0, which evaluate tries; give it a `settings` method",
    ),
    (
        Backwards(),
        "sweeps_from_the_earliest_leaving",
        "lets more leave at later settings of 0.9, 0.1; give it a `settings` method, the earliest leaving first",
    ),
]


def refusing(*outputs):
    def loss(student, teacher, batch):
        if student.last.shape[-1] in outputs:
            raise CompresskitError("can't")
        return squares(student, teacher, batch)

    return lose_by(loss)


def last_layer(student, teacher, weights):
    each = (student.hidden[-1] - teacher.hidden[-1]).square().mean(-1)  # (batch, tokens)
    return (each * weights).mean(1).mean()


def writing(student, teacher, batch):
    batch["labels"].zero_()
    return squares(student, teacher, batch)


def bank_by(function):
    """A distiller that looks at one bank, in which every row has a feature, (rows, size), and a label."""

    def loss(student, teacher, batch):
        bank = student.banks["one"]
        return function(student.last.sum(-1), bank.features[0].float().sum(-1), bank.labels, batch)

    return lose_by(loss, needs_teacher=False, needs_banks=True)


def alike(batch, labels):
    """(batch, rows) 1 for other rows of the same class."""
    others = torch.arange(len(labels)) != batch["index"].unsqueeze(1)
    return (others & (labels == batch["labels"].unsqueeze(1))).float()


def mean_of_the_alike(last, features, labels, batch):
    weights = alike(batch, labels)
    return ((last.unsqueeze(1) - features).square() * weights).sum(-1).div(weights.sum(-1)).mean()


def root_of_the_alike(last, features, labels, batch):
    return ((last.unsqueeze(1) - features).square() * alike(batch, labels)).sum(-1).sqrt().mean()


def test_distillers_that_look_at_banks_pass():
    check_strategy(
        type(bank_by(lambda last, features, labels, batch: (last - features[batch["index"]]).square().mean()))
    )


DISTILLERS = [
    (
        lose_by(lambda student, teacher, batch: student.last.sum(-1) * 0 + 1),
        "is_a_finite_scalar",
        "returns tensor([1., 1., 1., 1.]) for 1 outputs; a finite scalar",
    ),
    (
        lose_by(lambda student, teacher, batch: (student.last * 0).sum() / 0),
        "is_a_finite_scalar",
        "returns tensor(nan) for 1 outputs; a finite scalar",
    ),
    (refusing(1, 3), "is_a_finite_scalar", "refuses classification"),
    (
        lose_by(lambda student, teacher, batch: (student.last * 0 + 1).sum()),
        "is_the_mean_over_examples",
        "is 12 for a batch whose examples have a mean of 3",
    ),
    (
        lose_by(lambda *arguments: squares(*arguments).detach()),
        "moves_the_student",
        "can't be differentiated with respect to the student",
    ),
    (
        lose_by(lambda student, teacher, batch: (student.last * 0).abs().sqrt().mean()),
        "moves_the_student",
        "has a gradient with NaN or infinity",
    ),
    (
        lose_by(lambda student, teacher, batch: (student.last * 0).mean()),
        "moves_the_student",
        "has no gradient where the student differs from what it should learn",
    ),
    (
        lose_by(lambda student, teacher, batch: (student.last - teacher.last - 6).square().mean()),
        "is_content_with_a_copy_of_the_teacher",
        "has a gradient of 1 where the student equals its teacher",
    ),
    (
        lose_by(lambda student, teacher, batch: last_layer(student, teacher, 1), needs_hidden=True),
        "ignores_what_is_in_padding",
        "goes from NUMBER to NUMBER with what is in padding",
    ),
    (
        lose_by(lambda student, teacher, batch: last_layer(student, teacher, student.mask), needs_hidden=True),
        "ignores_how_much_padding_there_is",
        "goes from NUMBER to NUMBER with more padding",
    ),
    (
        bank_by(lambda last, features, labels, batch: (last - features[0]).square().mean()),
        "ignores_the_order_of_a_bank",
        "goes from NUMBER to NUMBER with the order of what is in a bank",
    ),
    (
        bank_by(mean_of_the_alike),
        "is_finite_for_the_only_example_of_a_class",
        "is nan where each example is alone in its class",
    ),
    (
        bank_by(root_of_the_alike),
        "is_finite_for_the_only_example_of_a_class",
        "has a gradient with NaN or infinity where each example is alone in its class",
    ),
    (lose_by(writing), "changes_nothing", "changes what it is given; work on a copy"),
    (
        bank_by(lambda last, features, labels, batch: last.mean() + labels.zero_().sum()),
        "changes_nothing",
        "changes what it is given; work on a copy",
    ),
]
CASES = [*COMMON, *PRUNERS, *FACTORIZERS, *EXIT_POLICIES, *DISTILLERS]


@pytest.mark.parametrize(("strategy", "check", "message"), CASES)
def test_a_flaw_is_found(strategy, check, message):
    with pytest.raises(AssertionError) as caught:
        dict(strategy_checks(strategy))[check]()
    words = str(caught.value).split()
    wanted = f"{type(strategy).__name__} {message}".split()
    assert len(words) == len(wanted)
    for word, want in zip(words, wanted, strict=True):
        assert float(word) >= 0 if want == "NUMBER" else word == want


@pytest.mark.parametrize(
    ("base", "cases"),
    [(Pruner, PRUNERS), (Factorizer, FACTORIZERS), (ExitPolicy, EXIT_POLICIES), (Distiller, DISTILLERS)],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_every_check_has_a_flaw_that_it_finds(base, cases):
    checks = {name.partition("[")[0] for name, _ in strategy_checks(cases[0][0])}
    assert all(isinstance(strategy, base) for strategy, _, _ in cases)
    assert checks == {check.partition("[")[0] for _, check, _ in [*cases, *COMMON]}


# --- flaws that the core itself complains about


def test_pruner_that_does_not_say_that_it_needs_data():
    def score(group, context):
        member = group.members[0]
        return member.per_unit(context.gradient(member.linear.weight, "signed")).sum(1)

    check_strategy(type(score_by(score, needs_data=True)))
    with pytest.raises(PluginError, match="does not say `needs_data = True`"):
        check_strategy(type(score_by(score)))


def test_distiller_that_does_not_say_that_it_needs_hidden_states():
    with pytest.raises(IndexError):
        check_strategy(type(lose_by(lambda student, teacher, batch: last_layer(student, teacher, student.mask))))


def test_a_distiller_may_refuse_regression():
    check_strategy(type(refusing(1)))

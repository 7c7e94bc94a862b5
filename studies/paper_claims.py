"""The claims of COST-EFF's paper, and the comparisons that test them (docs/results/paper.md)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from paper_results import Comparison, Found, Results, data_of_study, deciding, difference, verdict
from paper_tables import LAYERS, SQUAT, TITLES, TO_BE_RUN, n_of, table


@dataclass(frozen=True)
class Claim:
    """What the paper says, in what it is tested, and the comparisons that it needs to hold."""

    says: str
    tested: str
    needs: Sequence[Comparison]


CLAIMS = (
    Claim(
        "Slender beats squat, 8x",
        "COST-EFF over three shorter models, all at full depth. Two have its FLOPs; TinyBERT's, which must keep the "
        "teacher's heads, has a fifth more.",
        [Comparison("cost-eff-8x", f"{name}-8x") for name in SQUAT],
    ),
    Claim(
        "Slender beats squat, 2x",
        "The same at half of the original's FLOPs.",
        [Comparison("cost-eff-2x", f"{name}-2x") for name in SQUAT],
    ),
    Claim(
        "Both distillation terms matter",
        "COST-EFF over itself without one of them, at full depth.",
        [Comparison("cost-eff-8x", name) for name in ("no-features", "labels")],
    ),
    Claim(
        "Joint training lifts shallow exits",
        "The mean accuracy of the exits below the last.",
        [Comparison("cost-eff-8x", name, "below the last") for name in ("no-exit-loss", "two-stage")],
    ),
    Claim(
        "Two-stage training wins only at the last layer",
        "Two-stage over joint training at the last exit, and joint training over two-stage at every other.",
        [
            Comparison("two-stage", "cost-eff-8x"),
            *(Comparison("cost-eff-8x", "two-stage", layer) for layer in reversed(LAYERS[:-1])),
        ],
    ),
)


def claims(results: Results) -> Iterator[str]:
    """One line a claim: the comparison that decides it."""
    rows = []
    for claim in CLAIMS:
        found = [overall(results, comparison, len(claim.needs)) for comparison in claim.needs]
        worst = deciding(found)
        if worst is None:
            rows.append([claim.says, "", "", "", TO_BE_RUN])
        else:
            one = claim.needs[next(number for number, each in enumerate(found) if each is worst)]
            told = verdict(worst) + so_far(results, *claim.needs)
            rows.append([claim.says, named(one), points(worst), f"{worst.rows:,}", told])
    columns = ["claim", "decided by", "points (95 % interval)", "n", "verdict"]
    yield from table(columns, rows, words=(0, 1, 4))


def comparisons(results: Results) -> Iterator[str]:
    """Every comparison of every claim on every data set."""
    titles = [f"{title}{n_of(results, data)}" for data, title in TITLES.items()]
    for claim in CLAIMS:
        rows = []
        for one in claim.needs:
            each = [points(difference([one.differences(results.runs.get(data, ()))])) for data in TITLES]
            whole = overall(results, one)
            n = f"{whole.rows:,}" if whole else ""
            rows.append([named(one), *each, points(whole), n, verdict(whole) + so_far(results, one)])
        yield from (f"**{claim.says}.** {claim.tested}", "")
        yield from table(["points (95 % interval)", *titles, "overall", "n", "verdict"], rows, words=(0, 6))
        yield ""


def overall(results: Results, comparison: Comparison, among: int = 1) -> Found | None:
    """On average over the data sets that there is something of by now."""
    sets = (comparison.differences(results.runs.get(data, ())) for data in TITLES)
    return difference([rows for rows in sets if rows], among)


def so_far(results: Results, *needed: Comparison) -> str:
    """A word of caution where a run of these is there, but not on every data set with every seed."""
    study = data_of_study()
    names = {name for comparison in needed for name in (comparison.better, comparison.worse)}
    seeds: Mapping[tuple[str, str], set[int]] = {
        (data, name): {run.line["seed"] for run in results.on(data, [name])} for data in TITLES for name in names
    }
    done = all(found >= set(study[data]["seeds"]) for (data, _), found in seeds.items())
    return "" if done or not all(overall(results, comparison) for comparison in needed) else " so far"


def named(comparison: Comparison) -> str:
    """A comparison in words."""
    where = comparison.where
    at = "" if where == "last" else ", exits below the last" if where == "below the last" else f", exit {where}"
    return f"{comparison.better} over {comparison.worse}{at}"


def points(found: Found | None) -> str:
    """A difference of accuracies with its interval."""
    if found is None:
        return TO_BE_RUN
    return f"{100 * found.points:+.1f} ({100 * found.low:+.1f} to {100 * found.high:+.1f})"

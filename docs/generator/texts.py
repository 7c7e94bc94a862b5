"""The page about data: files, columns, labels, metrics."""

from __future__ import annotations

from collections.abc import Sequence

from compresskit import columns, data, labels, metrics, row_files
from generator.parts import doc, page, table


def _stems(stems: Sequence[str]) -> str:
    return " or ".join(f"`{stem}.*`" for stem in stems)


def _code(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


FILES = f"""\
`--data` is a folder, a file or a Hub dataset:

- a folder with {_stems(data.TRAIN_STEMS)} and {_stems(data.EVAL_STEMS)};
- one file, with `--eval-data` for the rows to evaluate on (`evaluate` needs no second one);
- `owner/name` or `owner/name:config` on the Hub, with the split `train` and the first there is of
  {_code(data.EVAL_SPLITS)}.

Endings: {_code(row_files.ENDINGS)}; text is UTF-8."""


ORDER = """\
Class id 1 is the second class, of 0 and 1 the `1`. `evaluate --json` lists the classes in their order under
`labels`."""


def texts() -> str:
    """How data are found and read, in the words of the modules that do it."""
    return page(
        "Data",
        "`apply`, `evaluate` and `predict` say on stderr which columns they read.",
        "## Files",
        FILES,
        doc(row_files).text,
        "## Columns",
        doc(columns).text,
        table(("`PAIRS`",), ((_code(pair),) for pair in columns.PAIRS)),
        table(("`SINGLES`",), ((_code(columns.SINGLES),),)),
        table(("`LABELS`",), ((_code(tier),) for tier in columns.LABELS)),
        "## Labels and the metric that comes first",
        doc(labels).text,
        "## Metrics",
        doc(metrics.score).text,
        ORDER,
    )

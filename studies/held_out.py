"""Splits training rows into rows to learn from and rows to choose by, so that no choice sees the rows reported on.

python studies/held_out.py GLUE/SST-2 work/sst2-held-out --train 6000 --dev 1000
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path


def main() -> None:
    """Draw without replacement from train.tsv; write train.tsv and dev.tsv, header kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path, help="folder with train.tsv")
    parser.add_argument("target", type=Path, help="folder to write")
    parser.add_argument("--train", type=int, required=True, help="rows to learn from")
    parser.add_argument("--dev", type=int, required=True, help="rows to choose by")
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    header, *rows = (options.source / "train.tsv").read_text(encoding="utf-8-sig").splitlines()
    drawn = random.Random(options.seed).sample(rows, options.train + options.dev)  # noqa: S311 - not a secret
    options.target.mkdir(parents=True, exist_ok=True)
    for name, part in (("train.tsv", drawn[: options.train]), ("dev.tsv", drawn[options.train :])):
        (options.target / name).write_text("\n".join([header, *part]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

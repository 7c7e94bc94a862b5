"""Makes docs/results/paper.md and its figures from the JSON files in docs/results/paper/.

python studies/paper_page.py [--sweep OUT] [--at FOLDER] [--check]

With --sweep, keeps first what a sweep of recipes/studies/paper.yaml has by now.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import paper_claims as claims
import paper_tables as tables
from paper_keep import keep, stale
from paper_results import ROOT, Results, load

from compresskit.sweep.charts import draw_panels
from compresskit.sweep.results import cells

TEMPLATE = Path(__file__).with_suffix(".txt")
SECTIONS: Mapping[str, Callable[[Results], Iterator[str]]] = {
    "<!-- state -->": tables.state,
    "<!-- data -->": tables.data_sets,
    "<!-- claims -->": claims.claims,
    "<!-- comparisons -->": claims.comparisons,
    "<!-- table 3 -->": tables.table_3,
    "<!-- not reproduced -->": tables.not_reproduced,
    "<!-- equal FLOPs -->": tables.equal_flops,
    "<!-- dial -->": tables.dial,
    "<!-- exits -->": tables.exits,
    "<!-- ablations -->": tables.ablations,
    "<!-- simple -->": tables.simple,
    "<!-- commands -->": tables.commands,
    "<!-- spent -->": tables.spent,
    "<!-- versions -->": tables.versions,
}


def main() -> None:
    """Keep what a sweep has, and write the page, or check that it is what the kept files give."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweep", type=Path, metavar="OUT", help="the folder of the sweep")
    parser.add_argument("--at", type=Path, metavar="FOLDER", default=ROOT / "docs" / "results")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    path, folder = options.at / "paper.md", options.at / "paper"
    for told in keep(options.sweep, folder) if options.sweep else ():
        print(told)
    results = load(folder)
    text = page(results)
    if options.check:
        wrong = [f"{file} is of another run than the study's; run it again and keep it" for file in stale(folder)]
        if path.read_text(encoding="utf-8") != text:
            wrong.append(f"{path} is not what its results give; run python studies/paper_page.py")
        sys.exit("\n".join(wrong) or 0)
    path.write_text(text, encoding="utf-8")
    draw(results, folder)


def page(results: Results) -> str:
    """The template with its sections filled in."""
    lines: list[str] = []
    for line in TEMPLATE.read_text(encoding="utf-8").splitlines():
        found = list(SECTIONS[line](results)) if line in SECTIONS else [line]
        lines += found[:-1] if found[-1:] == [""] and line in SECTIONS else found
    return "\n".join(lines) + "\n"


def draw(results: Results, folder: Path) -> None:
    """Every figure of the page."""

    def save(name: str, names: Sequence[str], what: Literal["curves", "exits"]) -> None:
        groups = {
            title: cells([run.line for run in results.on(data, names)], Path(), None)
            for data, title in tables.TITLES.items()
        }
        draw_panels(groups, what).savefig(folder / f"{name}.png", dpi=130, metadata={"Software": None})

    for size in tables.SIZES:
        with_exits = tables.sized(tables.WITH_EXITS, size)
        save(f"curves-{size}", [*with_exits, *tables.sized((*tables.SQUAT, "cofi"), size)], "curves")
        save(f"exits-{size}", with_exits, "exits")
    save("ablations-curves", tables.ABLATIONS, "curves")
    save("ablations-exits", tables.ABLATIONS, "exits")


if __name__ == "__main__":
    main()

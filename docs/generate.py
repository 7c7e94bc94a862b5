"""Writes docs/reference/ from the code, or with `--check` says what there is out of date.

Only what comes with compresskit is described: which plugins are installed makes no difference, nor does the terminal.
"""

from __future__ import annotations

import sys
from pathlib import Path

from generator import code, commands, formats, recipes, studies, texts

REFERENCE = Path(__file__).parent / "reference"
PAGES = {
    "recipe.md": recipes.recipe,
    "recipe.schema.json": recipes.schema,
    "strategies.md": recipes.strategies,
    "architectures.md": code.architectures,
    "cli.md": commands.cli,
    "data.md": texts.texts,
    "formats.md": formats.formats,
    "study.md": studies.studies,
    "hooks.md": code.hooks,
    "python.md": code.python,
    "errors.md": code.errors,
}


def main() -> int:
    """Write or check every page; 1 where a check failed."""
    if sys.argv[1:] not in ([], ["--check"]):
        print("usage: python docs/generate.py [--check]", file=sys.stderr)
        return 2
    check = bool(sys.argv[1:])
    stale = [name for name, page in PAGES.items() if not _same(REFERENCE / name, page())]
    strange = sorted(path.name for path in REFERENCE.glob("*") if path.name not in PAGES)
    if not check:
        REFERENCE.mkdir(exist_ok=True)
        for name in stale:
            (REFERENCE / name).write_text(PAGES[name](), encoding="utf-8")
        for name in strange:
            (REFERENCE / name).unlink()
        return 0
    for name in stale:
        print(f"docs/reference/{name} is out of date; run `make docs`", file=sys.stderr)
    for name in strange:
        print(f"docs/reference/{name} is written by nobody; run `make docs` to remove it", file=sys.stderr)
    return 1 if stale or strange else 0


def _same(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text(encoding="utf-8") == text


if __name__ == "__main__":
    sys.exit(main())

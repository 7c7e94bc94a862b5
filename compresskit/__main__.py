"""`python -m compresskit` is `compresskit`."""

from __future__ import annotations

from compresskit.cli import main

main()

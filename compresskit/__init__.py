"""Make encoder models small and fast: prune, factorize, distil and leave early, by recipe.

Importing the package registers compressed checkpoints with transformers' Auto classes, so that
`AutoModelForSequenceClassification.from_pretrained(folder)` and `pipeline("text-classification", folder)` work. The
names below are loaded on first use, because torch and transformers take seconds to import and `compresskit --help`
needs neither.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from compresskit import registration

if TYPE_CHECKING:
    from compresskit.anatomy import Alias, Anatomy, Group, Member, Particulars, Slice
    from compresskit.errors import CompresskitError
    from compresskit.hooks import hookimpl
    from compresskit.interfaces import (
        Bank,
        Batch,
        Context,
        Distiller,
        ExitHead,
        ExitPolicy,
        ExitTrail,
        Factored,
        Factorizer,
        Masker,
        MaskModule,
        Masks,
        Projections,
        Pruner,
        Sizes,
        Strategy,
        Trace,
        UnitTrace,
    )

__version__ = "0.1.0"

_HOMES = {
    "Alias": "anatomy",
    "Anatomy": "anatomy",
    "Group": "anatomy",
    "Member": "anatomy",
    "Particulars": "anatomy",
    "Slice": "anatomy",
    "CompresskitError": "errors",
    "hookimpl": "hooks",
    "Bank": "interfaces",
    "Batch": "interfaces",
    "Context": "interfaces",
    "Distiller": "interfaces",
    "ExitHead": "interfaces",
    "ExitPolicy": "interfaces",
    "ExitTrail": "interfaces",
    "Factored": "interfaces",
    "Factorizer": "interfaces",
    "MaskModule": "interfaces",
    "Masker": "interfaces",
    "Masks": "interfaces",
    "Projections": "interfaces",
    "Pruner": "interfaces",
    "Sizes": "interfaces",
    "Strategy": "interfaces",
    "Trace": "interfaces",
    "UnitTrace": "interfaces",
}

__all__ = [
    "Alias",
    "Anatomy",
    "Bank",
    "Batch",
    "CompresskitError",
    "Context",
    "Distiller",
    "ExitHead",
    "ExitPolicy",
    "ExitTrail",
    "Factored",
    "Factorizer",
    "Group",
    "MaskModule",
    "Masker",
    "Masks",
    "Member",
    "Particulars",
    "Projections",
    "Pruner",
    "Sizes",
    "Slice",
    "Strategy",
    "Trace",
    "UnitTrace",
    "hookimpl",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'compresskit' has no attribute '{name}'")
    return getattr(importlib.import_module(f"compresskit.{_HOMES[name]}"), name)


registration.register()

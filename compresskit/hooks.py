"""The two hooks by which strategies and architectures reach compresskit.

A distribution names its module under the entry-point group `compresskit`; in that module:

    from compresskit import hookimpl

    @hookimpl
    def compresskit_strategies():
        return [MyPruner]
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from compresskit.anatomy import Alias, Anatomy
    from compresskit.interfaces import Strategy

PROJECT = "compresskit"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def compresskit_strategies() -> Iterable[type[Strategy]]:  # type: ignore[empty-body]
    """Strategy classes; the base class (Pruner, Factorizer, ExitPolicy, Distiller) tells the kind.

    Example:
        @hookimpl
        def compresskit_strategies():
            return [Taylor, Magnitude]
    """


@hookspec
def compresskit_architectures() -> Iterable[Anatomy | Alias]:  # type: ignore[empty-body]
    """Anatomies, one per `model_type`, and aliases of them.

    Example:
        @hookimpl
        def compresskit_architectures():
            return [dataclasses.replace(BERT, model_type="camembert")]
    """

"""Makes transformers' Auto classes know compressed checkpoints, without importing transformers or torch for it.

The Auto classes live in two modules that are slow to import. If they are loaded already, registration happens at once;
if not, it happens right after they are, so `import compresskit` costs nothing and its place among the imports does not
matter.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


def _register_config() -> None:
    from transformers.models.auto.configuration_auto import AutoConfig

    from compresskit.config import CompressedConfig

    AutoConfig.register(CompressedConfig.model_type, CompressedConfig, exist_ok=True)


def _register_model() -> None:
    from transformers.models.auto.modeling_auto import AutoModelForSequenceClassification

    from compresskit import model
    from compresskit.config import CompressedConfig

    # Where importing `model` is what brought the Auto classes in, it is not ready yet, and registers at its own end.
    if not hasattr(model, "CompressedForSequenceClassification"):
        return
    AutoModelForSequenceClassification.register(
        CompressedConfig, model.CompressedForSequenceClassification, exist_ok=True
    )


_ACTIONS: dict[str, Callable[[], None]] = {
    "transformers.models.auto.configuration_auto": _register_config,
    "transformers.models.auto.modeling_auto": _register_model,
}


class _ThenRegister(Loader):
    """Runs the module's own loader, then the registration."""

    def __init__(self, loader: Loader, action: Callable[[], None]) -> None:
        self.loader = loader
        self.action = action

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """As the module's own loader does."""
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Execute the module, give it its own loader back, register."""
        self.loader.exec_module(module)
        if module.__spec__ is not None:
            module.__spec__.loader = self.loader
        module.__loader__ = self.loader
        self.action()


class _Finder(MetaPathFinder):
    """Sees the two modules go by, once each."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The usual spec, with registration after execution."""
        if fullname not in _ACTIONS:
            return None
        sys.meta_path.remove(self)
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            sys.meta_path.insert(0, self)
        if spec is not None and spec.loader is not None:
            spec.loader = _ThenRegister(spec.loader, _ACTIONS[fullname])
        return spec


def register() -> None:
    """Register now what is loaded, and the rest when it is."""
    for name, action in _ACTIONS.items():
        if name in sys.modules:
            action()
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())

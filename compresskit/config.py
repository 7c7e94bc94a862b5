"""The config of a compressed checkpoint. Needs no torch."""

from __future__ import annotations

from typing import Any

from transformers.configuration_utils import PreTrainedConfig


class CompressedConfig(PreTrainedConfig):  # type: ignore[misc]
    """A compressed model's config: the original's config, the shape now, and the exit policy.

    Args:
        original: the original's config as a dictionary, with its `model_type`.
        shape: `Shape.to_json()`, or None for the original's own shape.
        exit_policy: `{"by": name, "with": options, "from": "distribution version"}`, or None where every example goes
            to the last layer. `from` only says what to install where the policy is missing.
        untrained: 1-based layers that answer with a head that nobody has trained.
        data: `{"text_columns": [..], "label_column": name, "max_tokens": number}` as the model was compressed with
            them, or None.
    """

    model_type = "compresskit"

    def __init__(
        self,
        original: dict[str, Any] | None = None,
        shape: dict[str, Any] | None = None,
        exit_policy: dict[str, Any] | None = None,
        untrained: list[int] | None = None,
        data: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self.original = original or {}
        self.shape = shape
        self.exit_policy = exit_policy
        self.untrained = untrained or []
        self.data = data
        super().__init__(**kwargs)

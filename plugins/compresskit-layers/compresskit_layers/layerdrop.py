"""LayerDrop: training that gets used to missing layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, final

import torch
from pydantic import Field

from compresskit import Masker, MaskModule, Masks, Sizes


class DroppedLayers(MaskModule):
    """Each layer is passed over with the same probability, drawn anew for each forward pass."""

    def __init__(self, layers: int, rate: float) -> None:
        super().__init__()
        self.layers = layers
        self.rate = rate

    def masks(self, number: int, step: int, steps: int) -> Masks:
        """The layers that run."""
        run = (torch.rand(self.layers) >= self.rate).tolist()
        # A pass without any layer teaches nothing; it is rare, and the last layer has to answer.
        return Masks(layers=(*run[:-1], run[-1] or not any(run)))


@final
@dataclass(frozen=True)
class LayerDrop(Masker):
    """Pass over layers at random while training (LayerDrop, Fan et al. 2020, arXiv:1909.11556).

    Each layer is left out of a forward pass with the same probability, without rescaling the others; evaluation runs
    all of them. A model that was trained so bears that layers are cut: every other one, by the authors' finding, with
    `prune: layers`. They train so from the beginning of pre-training, and report that fine-tuning alone is too little.

    Args:
        rate: probability; the authors advise 0.2, and 0.5 where half of the layers or more will go.
    """

    name: ClassVar[str] = "layerdrop"

    rate: Annotated[float, Field(ge=0, lt=1)] = 0.2

    def layers_run(self, layers: int) -> Sequence[int]:
        """Any number, where there is anything to drop."""
        return range(layers, 0, -1) if self.rate else (layers,)

    def build(self, sizes: Sizes) -> DroppedLayers:
        """Draws from as many layers as there are."""
        return DroppedLayers(len(sizes.heads), self.rate)

"""Groups and gradients made by hand, so that strategies are tested without a model."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch
from torch import nn

from compresskit.anatomy import Group, Member

ROLES = {
    "heads": (("query", 0), ("key", 0), ("value", 0), ("attention-out", 1)),
    "neurons": (("ffn-in", 0), ("ffn-out", 1)),
}


@dataclass
class FakeContext:
    """Gradients by the id of a weight: (batches, *weight.shape)."""

    gradients: dict[int, torch.Tensor] = field(default_factory=dict)
    generator: torch.Generator = field(default_factory=torch.Generator)

    def gradient(self, weight, reduce):
        each = self.gradients[id(weight)]
        return each.sum(0) if reduce == "signed" else each.abs().sum(0)


def make_group(target, units, width, hidden, seed=0):
    torch.manual_seed(seed)
    members = []
    for role, dim in ROLES[target]:
        shape = (hidden, units * width) if dim == 0 else (units * width, hidden)  # nn.Linear(inputs, outputs)
        members.append(Member(role, nn.Linear(*shape), dim, width))
    return Group(target, 0, units, tuple(members))


@pytest.fixture
def group():
    return make_group


@pytest.fixture
def context():
    """A context with random gradients of three batches for every matrix of a group."""

    def make(group, seed=1):
        generator = torch.Generator().manual_seed(seed)
        gradients = {
            id(member.linear.weight): torch.randn(3, *member.linear.weight.shape, generator=generator)
            for member in group.members
        }
        return FakeContext(gradients)

    return make

"""Truncated SVD against linear algebra. F1, F2, F3, F5 and F6 are tests of the method's catalogue."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from compresskit.errors import SurgeryError
from compresskit.strategies.svd import Svd


def weight(rows=40, columns=12, seed=0):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def product(matrix, rank):
    table, projection = Svd().factor(matrix, rank, None)
    return table @ projection


@pytest.mark.parametrize("rank", [1, 5, 11, 12])
def test_f1_error_is_that_of_eckart_and_young(rank):
    matrix = weight()
    dropped = torch.linalg.svdvals(matrix.double())[rank:]
    error = (matrix - product(matrix, rank)).double().norm()
    assert error.item() == pytest.approx(dropped.square().sum().sqrt().item(), rel=1e-5, abs=1e-5)


def test_f2_iterated_equals_direct():
    matrix = weight()
    step = matrix
    for rank in (10, 8, 6, 4):
        step = product(step, rank)
    torch.testing.assert_close(step, product(matrix, 4), rtol=0, atol=1e-5)


def test_f3_full_rank_is_the_matrix():
    torch.testing.assert_close(product(weight(), 12), weight(), rtol=0, atol=1e-5)


def test_f5_first_factor_holds_the_singular_values():
    table, projection = Svd().factor(weight(), 5, None)
    assert (table.shape, projection.shape) == ((40, 5), (5, 12))
    assert projection.is_contiguous()
    torch.testing.assert_close(table.norm(dim=0), torch.linalg.svdvals(weight())[:5])
    torch.testing.assert_close(projection @ projection.t(), torch.eye(5), rtol=0, atol=1e-6)
    gram = table.t() @ table
    torch.testing.assert_close(gram, torch.diag(gram.diagonal()), rtol=0, atol=1e-4)


class Largest(TorchDispatchMode):
    """Notes how many entries the largest tensor has that an operation makes."""

    entries = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor):
                self.entries = max(self.entries, tensor.untyped_storage().nbytes() // tensor.element_size())
        return made


@pytest.mark.parametrize("full", [True, False])
def test_f6_the_measure_sees_how_large_u_is(full):
    matrix = weight(500, 8)
    with Largest() as largest:
        torch.linalg.svd(matrix, full_matrices=full)
    assert largest.entries == (500 * 500 if full else 500 * 8)


@pytest.mark.parametrize(("rows", "columns", "rank"), [(500, 8, 3), (60_000, 4, 2)])
def test_f6_nothing_larger_than_the_table_itself_is_made(rows, columns, rank):
    """A full U of the second would take 14 GB."""
    matrix = weight(rows, columns)
    with Largest() as largest:
        table, _ = Svd().factor(matrix, rank, None)
    assert table.shape == (rows, rank)
    assert largest.entries == rows * columns  # the table in double precision


def test_signs_are_settled():
    first, second = Svd().factor(weight(), 6, None), Svd().factor(weight(), 6, None)
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    _, projection = first
    assert (projection.gather(1, projection.abs().argmax(dim=1, keepdim=True)) > 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_precision_is_the_weight_s(dtype):
    assert {factor.dtype for factor in Svd().factor(weight().to(dtype), 3, None)} == {dtype}


def test_small_singular_values_survive():
    """Singular values from 1 down to 1e-6 of it, in fp32, come out to fp32's own precision."""
    q, _ = torch.linalg.qr(weight(40, 12).double())
    v, _ = torch.linalg.qr(weight(12, 12, seed=1).double())
    matrix = ((q * torch.logspace(0, -6, 12, dtype=torch.float64)) @ v.t()).float()
    torch.testing.assert_close(product(matrix, 12), matrix, rtol=0, atol=5e-7)


def test_wide_matrices_and_rank_deficient_ones():
    torch.testing.assert_close(product(weight(5, 9), 5), weight(5, 9), rtol=0, atol=1e-5)
    thin = weight(20, 3) @ weight(3, 8, seed=2)
    torch.testing.assert_close(product(thin, 6), thin, rtol=0, atol=1e-5)


@pytest.mark.parametrize("rank", [0, 13])
def test_rank_that_does_not_fit(rank):
    with pytest.raises(SurgeryError) as caught:
        Svd().factor(weight(), rank, None)
    assert str(caught.value) == f"svd: rank {rank} does not fit a 40 x 12 matrix; choose 1 to 12"

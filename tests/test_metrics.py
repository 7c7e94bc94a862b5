"""Metrics against sums by hand."""

from __future__ import annotations

import math

import pytest
import torch

from compresskit.labels import Task
from compresskit.metrics import confusion, predictions, score

TWO = Task("classification", ("no", "yes"), "accuracy")
THREE = Task("classification", ("a", "b", "c"), "accuracy")
NUMBER = Task("regression", (), "pearson")


def test_two_classes():
    # 3 true positives, 1 false negative, 2 false positives, 4 true negatives
    labels = torch.tensor([1, 1, 1, 1, 0, 0, 0, 0, 0, 0])
    said = torch.tensor([1, 1, 1, 0, 1, 1, 0, 0, 0, 0])
    found = score(TWO, said, labels)
    assert found == {
        "accuracy": pytest.approx(7 / 10),
        "f1": pytest.approx(2 * 3 / (2 * 3 + 1 + 2)),
        "matthews": pytest.approx((3 * 4 - 2 * 1) / math.sqrt(5 * 4 * 6 * 5)),
    }
    assert confusion(TWO, said, labels) == ((4, 2), (1, 3))


def test_three_classes_average_f1_over_all_of_them_even_one_that_is_missing():
    labels = torch.tensor([0, 0, 1, 1])
    said = torch.tensor([0, 1, 1, 1])
    found = score(THREE, said, labels)
    assert list(found) == ["accuracy", "macro_f1", "matthews"]
    assert found["macro_f1"] == pytest.approx((2 / 3 + 4 / 5 + 0) / 3)
    assert confusion(THREE, said, labels) == ((1, 1, 0), (0, 2, 0), (0, 0, 0))


def test_always_the_same_class_is_no_relation():
    found = score(TWO, torch.zeros(4, dtype=torch.long), torch.tensor([0, 1, 0, 1]))
    assert found == {"accuracy": 0.5, "f1": 0.0, "matthews": 0.0}
    ones = torch.ones(4, dtype=torch.long)
    assert score(TWO, ones, ones) == {"accuracy": 1.0, "f1": 1.0, "matthews": 0.0}


def test_numbers():
    labels = torch.tensor([1.0, 2.0, 3.0])
    said = torch.tensor([1.0, 10.0, 100.0])
    found = score(NUMBER, said, labels)
    assert found["spearman"] == pytest.approx(1.0)
    # deviations -1, 0, 1 and -36, -27, 63: 99 / sqrt(2 * 5994)
    assert found["pearson"] == pytest.approx(99 / math.sqrt(2 * 5994))
    assert confusion(NUMBER, said, labels) == ()


def test_always_the_same_number_is_no_relation():
    assert score(NUMBER, torch.ones(3), torch.tensor([1.0, 2.0, 3.0])) == {"pearson": 0.0, "spearman": 0.0}


def test_predictions_are_the_likeliest_class_or_the_number_itself():
    assert predictions(TWO, torch.tensor([[0.1, 0.2], [3.0, -1.0]])).tolist() == [1, 0]
    assert predictions(NUMBER, torch.tensor([[0.5], [-2.0]])).tolist() == [0.5, -2.0]

"""How well predictions fit the labels."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from compresskit.labels import Task


def predictions(task: Task, logits: Tensor) -> Tensor:
    """Logits (rows, outputs) to class ids (rows,), or to the predicted numbers."""
    return logits[:, 0] if task.kind == "regression" else logits.argmax(-1)


def score(task: Task, predicted: Tensor, labels: Tensor) -> dict[str, float]:
    """Every metric that suits the task; higher is better.

    Classification: `accuracy`, `f1` (of class id 1 where there are two classes, `macro_f1` over all classes where there
    are more) and `matthews`. Regression: `pearson` and `spearman`. What is undefined because all predictions or all
    labels are the same is 0: they show no relation.

    Args:
        predicted, labels: (rows,) class ids or numbers.
    """
    if task.kind == "regression":
        return _correlations(predicted, labels)
    from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

    truth, said = labels.numpy(), predicted.numpy()
    classes = range(task.num_labels)
    if task.num_labels == 2:
        name, f1 = "f1", f1_score(truth, said, labels=classes, pos_label=1, zero_division=0)
    else:
        name, f1 = "macro_f1", f1_score(truth, said, labels=classes, average="macro", zero_division=0)
    return {
        "accuracy": float(accuracy_score(truth, said)),
        name: float(f1),
        # With one class only scikit-learn warns, and answers 0 as it is.
        "matthews": float(matthews_corrcoef(truth, said)) if len({*truth.tolist(), *said.tolist()}) > 1 else 0.0,
    }


def confusion(task: Task, predicted: Tensor, labels: Tensor) -> tuple[tuple[int, ...], ...]:
    """How many rows of each class (outer) were taken for each class (inner); empty for regression."""
    if task.kind == "regression":
        return ()
    from sklearn.metrics import confusion_matrix

    matrix: Sequence[Sequence[int]] = confusion_matrix(
        labels.numpy(), predicted.numpy(), labels=range(task.num_labels)
    ).tolist()
    return tuple(tuple(row) for row in matrix)


def _correlations(predicted: Tensor, labels: Tensor) -> dict[str, float]:
    from scipy.stats import pearsonr, spearmanr  # type: ignore[import-untyped]

    said, truth = predicted.double().numpy(), labels.double().numpy()
    if len(set(said.tolist())) < 2 or len(set(truth.tolist())) < 2:
        return {"pearson": 0.0, "spearman": 0.0}
    return {
        "pearson": float(pearsonr(said, truth).statistic),
        "spearman": float(spearmanr(said, truth).statistic),
    }

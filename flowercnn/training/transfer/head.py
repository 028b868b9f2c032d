"""Head on fixed features: a linear discriminant, settings chosen by cross-validation.

Of linear classifiers it needs the fewest images, and it is solved for every shrinkage at once,
without iterations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

__all__ = ["Head", "fit_head"]

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

_SHRINKAGES: Final = (0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 0.9)
_USUAL: Final = 0.5  # where there are too few images to choose
_SHARPNESS: Final = tuple(np.geomspace(0.01, 3, 40))
_ABSENT: Final = -30.0  # logit of a class without a training image


@dataclass(frozen=True, slots=True)
class Head:
    """Weights of a softmax layer, and how well it did on images it was not fitted on.

    Args:
        kernel: Shape (features, num_classes), float32.
        bias: Shape (num_classes,), float32.
        shrinkage: Share of a multiple of the identity in the covariance (Friedman 1989).
        sharpness: What logits are multiplied by, for probabilities that mean what they say (Guo et
            al. 2017).
        accuracy: In cross-validation, 0-1; NaN if there were too few images for one.
        loss: Mean cross-entropy in cross-validation; likewise.
    """

    kernel: npt.NDArray[np.float32]
    bias: npt.NDArray[np.float32]
    shrinkage: float
    sharpness: float
    accuracy: float
    loss: float

    def probabilities(self, features: npt.NDArray[np.floating]) -> Floats:
        """Return the class probabilities of feature vectors, shape (n, num_classes)."""
        return _softmax(features.astype(np.float64) @ self.kernel.astype(np.float64) + self.bias)


def fit_head(
    features: npt.NDArray[np.float32],
    labels: Indices,
    num_classes: int,
    folds: Sequence[Indices] = (),
    class_weights: npt.NDArray[np.float32] | None = None,
) -> Head:
    """Return the softmax layer for feature vectors.

    Args:
        features: Shape (n, views, features): of each image and its mirror image, or of each
            image alone.
        labels: Shape (n,), from 0.
        num_classes: How many outputs.
        folds: Positions left out in turn to choose shrinkage and sharpness, which are judged on
            those alone; none where that is impossible.
        class_weights: Weight of each class beside its frequency, or ``None``.
    """
    if not folds:
        kernel, bias = _Discriminants(features, labels, num_classes, class_weights).solve(_USUAL)
        return Head(kernel, bias, _USUAL, 1.0, np.nan, np.nan)
    logits = np.zeros((len(_SHRINKAGES), len(labels), num_classes))
    for fold in folds:
        rest = np.setdiff1d(np.arange(len(labels)), fold)
        discriminants = _Discriminants(features[rest], labels[rest], num_classes, class_weights)
        for number, shrinkage in enumerate(_SHRINKAGES):
            kernel, bias = discriminants.solve(shrinkage)
            logits[number, fold] = features[fold, 0] @ kernel + bias
    tested = np.concatenate(folds)
    losses = np.array(
        [[_loss(s * rows[tested], labels[tested]) for s in _SHARPNESS] for rows in logits]
    )
    best, sharpest = np.unravel_index(losses.argmin(), losses.shape)
    shrinkage, sharpness = _SHRINKAGES[best], float(_SHARPNESS[sharpest])
    kernel, bias = _Discriminants(features, labels, num_classes, class_weights).solve(shrinkage)
    bias = np.where(bias == _ABSENT, _ABSENT / sharpness, bias)
    accuracy = float((logits[best, tested].argmax(axis=1) == labels[tested]).mean())
    scaled = (kernel * np.float32(sharpness), (bias * sharpness).astype(np.float32))
    return Head(*scaled, shrinkage, sharpness, accuracy, float(losses[best, sharpest]))


class _Discriminants:
    """Linear discriminants of one set of images, for any shrinkage from one decomposition."""

    def __init__(
        self,
        features: npt.NDArray[np.float32],
        labels: Indices,
        num_classes: int,
        class_weights: npt.NDArray[np.float32] | None,
    ) -> None:
        rows = features.reshape(-1, features.shape[-1]).astype(np.float64)
        repeated = np.repeat(labels, features.shape[1])
        self._mean, spread = rows.mean(axis=0), rows.std(axis=0)
        self._spread = np.where(
            spread > 1e-3 * max(spread.mean(), 1e-12), spread, np.inf
        )  # constant: no say
        scaled = (rows - self._mean) / self._spread
        counts = np.bincount(labels, minlength=num_classes)
        self._present = counts > 0
        self._centres = np.zeros((num_classes, rows.shape[1]))
        np.add.at(self._centres, repeated, scaled)
        self._centres /= np.maximum(counts * features.shape[1], 1)[:, None]
        within = scaled - self._centres[repeated]
        self._variances, self._axes = _decompose(within)
        self._average = max(float(self._variances.sum()) / rows.shape[1], 1e-12)
        priors = counts * (1.0 if class_weights is None else class_weights.astype(np.float64))
        self._log_priors = np.log(np.maximum(priors, 1e-12) / priors.sum())

    def solve(self, shrinkage: float) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Return kernel and bias of the discriminants on unscaled feature vectors."""
        rest = shrinkage * self._average  # the variance of every direction without one of its own
        along = self._centres @ self._axes
        own = (1 - shrinkage) * self._variances + rest
        kernel = (self._centres - along @ self._axes.T) / rest + (along / own) @ self._axes.T
        bias = self._log_priors - 0.5 * (kernel * self._centres).sum(axis=1)
        kernel = kernel / self._spread
        bias = bias - kernel @ self._mean
        bias[~self._present], kernel[~self._present] = _ABSENT, 0
        return kernel.T.astype(np.float32), bias.astype(np.float32)


def _decompose(rows: Floats) -> tuple[Floats, Floats]:
    """Return the variances of rows along their principal axes, and the axes as columns."""
    count, size = rows.shape
    if size <= count:
        variances, axes = np.linalg.eigh(rows.T @ rows / count)
        return np.maximum(variances, 0), axes
    variances, sides = np.linalg.eigh(rows @ rows.T / count)
    kept = variances > 1e-10 * max(variances[-1], 1e-12)
    axes = rows.T @ sides[:, kept] / np.sqrt(variances[kept] * count)
    return variances[kept], axes


def _softmax(logits: Floats) -> Floats:
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True))


def _loss(logits: Floats, labels: Indices) -> float:
    of_truth = _softmax(logits)[np.arange(len(labels)), labels]
    return float(-np.log(np.maximum(of_truth, 1e-12)).mean())

"""Out-of-distribution detector: the distance of an image from those of training. NumPy only."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from flowercnn.errors import ConfigurationError
from flowercnn.prediction.conformal import conformal_quantile

__all__ = ["LayerGaussian", "OutOfDistributionDetector", "pack_floats", "unpack_floats"]

Floats = npt.NDArray[np.floating[Any]]

_SHRINKAGE: Final = 0.01
_DIRECTIONS: Final = 32
_MOST_FEATURES: Final = 256  # of a layer
_SMALLEST: Final = 1e-12
_ARRAYS: Final = ("mean", "scale", "directions", "variances")


@dataclass(frozen=True, slots=True, eq=False)
class LayerGaussian:
    """Gaussian of the square roots of a layer's mean activations for the training images.

    The covariance of the standardised features is kept as its main directions and one variance for
    all the rest (probabilistic principal component analysis; Tipping & Bishop 1999), which is
    smaller and more robust.

    Args:
        size: The number of the layer's features; of more than 256, a fixed choice is used.
        mean: Shape (d,), float32.
        scale: Shape (d,), float32: what the features are divided by.
        directions: Shape (d, k), float32.
        variances: Shape (k + 1,), float32: along each direction, and along any other.
    """

    size: int
    mean: npt.NDArray[np.float32]
    scale: npt.NDArray[np.float32]
    directions: npt.NDArray[np.float32]
    variances: npt.NDArray[np.float32]

    @classmethod
    def fit(cls, features: Floats) -> LayerGaussian:
        """Fit it to the features of training images, shape (n, size)."""
        roots = _square_roots(features)
        mean = roots.mean(axis=0)
        spread = roots.std(axis=0)
        # The second term: features that hardly vary must not decide.
        scale = spread + 0.05 * spread.mean() + _SMALLEST
        centred = (roots - mean) / scale
        covariance = centred.T @ centred / len(centred)
        values, vectors = np.linalg.eigh(covariance)
        values = np.maximum(values[::-1], 0)
        count = min(_DIRECTIONS, len(mean))
        directions = vectors[:, ::-1][:, :count]
        rest = values[count:].mean() if count < len(mean) else values[-1]
        level = values.mean() + _SMALLEST
        variances = (1 - _SHRINKAGE) * np.append(values[:count], rest) + _SHRINKAGE * level
        return cls(features.shape[1], *map(_single, (mean, scale, directions, variances)))

    def distances(self, features: Floats) -> npt.NDArray[np.float64]:
        """Return each row's squared Mahalanobis distance per feature, which is 1 on average."""
        apart = ((_square_roots(features) - self.mean) / self.scale).astype(np.float64)
        # Not @: BLAS threads spin for 30 ms after a batch, and the network waits for them.
        along = np.einsum("ij,jk->ik", apart, self.directions)
        rest = np.maximum((apart**2).sum(axis=1) - (along**2).sum(axis=1), 0)
        inside = (along**2 / self.variances[:-1]).sum(axis=1)
        total: npt.NDArray[np.float64] = inside + rest / self.variances[-1]
        return total / len(self.mean)

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return {"size": self.size, **{name: pack_floats(getattr(self, name)) for name in _ARRAYS}}

    @classmethod
    def from_dict(cls, described: Mapping[str, Any]) -> LayerGaussian:
        """Return what `to_dict` described.

        Raises:
            ValueError: If it is damaged; also TypeError and KeyError.
        """
        arrays = [_single(unpack_floats(described[name])) for name in _ARRAYS]
        mean, scale, directions, variances = arrays
        size = described["size"]
        count = len(mean)
        if not isinstance(size, int) or not 1 <= count == len(scale) == min(size, _MOST_FEATURES):
            raise ValueError("a layer's features do not fit together")
        if not len(variances) or len(directions) != count * (len(variances) - 1):
            raise ValueError("a layer's directions and variances do not fit together")
        if (variances <= 0).any() or (scale <= 0).any():
            raise ValueError("a layer's variances and scales must be above 0")
        return cls(size, mean, scale, directions.reshape(count, -1), variances)


@dataclass(frozen=True, slots=True, eq=False)
class OutOfDistributionDetector:
    """Out-of-distribution detector: the distance of an image from the training images.

    The score is the geometric mean, over layers at several depths, of the squared Mahalanobis
    distance from the mean of the training images (as Lee et al. 2018, with one Gaussian for all
    classes). Images of unknown classes that a softmax is sure about are far away in some layer.

    Args:
        layers: Names of the layers, in the order of the features.
        gaussians: One per layer, of the training images.
        scores: Sorted scores of the validation images, float64.
    """

    layers: tuple[str, ...]
    gaussians: tuple[LayerGaussian, ...]
    scores: npt.NDArray[np.float64]

    @classmethod
    def fit(cls, sizes: Mapping[str, int], train: Floats, val: Floats) -> OutOfDistributionDetector:
        """Fit it to the features of training and validation images, each of shape (n, features).

        Args:
            sizes: The number of each layer's features, by its name, in order.
            train: Mean activations, side by side.
            val: Likewise.
        """
        columns = _columns(train, list(sizes.values()))
        unscored = cls(tuple(sizes), tuple(map(LayerGaussian.fit, columns)), np.empty(0))
        return replace(unscored, scores=np.sort(unscored.score(val)))

    def score(self, features: Floats) -> npt.NDArray[np.float64]:
        """Return the score of each row of mean activations (n, features); 1 is usual."""
        columns = _columns(features, [gaussian.size for gaussian in self.gaussians])
        pairs = zip(self.gaussians, columns, strict=True)
        distances = [gaussian.distances(column) for gaussian, column in pairs]
        logarithms = np.log(np.maximum(distances, _SMALLEST))
        means: npt.NDArray[np.float64] = np.exp(logarithms.mean(axis=0))
        return means

    def threshold(self, false_alarms: float) -> float:
        """Return the score that this share of in-distribution images exceeds; infinite for 0."""
        return conformal_quantile(self.scores, 1 - false_alarms)

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        pairs = zip(self.layers, self.gaussians, strict=True)
        layers = [{"name": name, **gaussian.to_dict()} for name, gaussian in pairs]
        return {"layers": layers, "scores": pack_floats(self.scores)}

    @classmethod
    def from_dict(cls, described: Mapping[str, Any]) -> OutOfDistributionDetector:
        """Return the detector that `to_dict` described.

        Raises:
            ValueError: If it is damaged; also TypeError and KeyError.
        """
        names = tuple(str(layer["name"]) for layer in described["layers"])
        if not names:
            raise ValueError("the out-of-distribution detector has no layers")
        gaussians = tuple(map(LayerGaussian.from_dict, described["layers"]))
        return cls(names, gaussians, unpack_floats(described["scores"]))


def _square_roots(features: Floats) -> npt.NDArray[np.float32]:
    """Return square roots, which shorten long tails; of many features a fixed choice."""
    chosen = np.asarray(features, dtype=np.float32)
    if chosen.shape[1] > _MOST_FEATURES:
        places = np.linspace(0, chosen.shape[1] - 1, _MOST_FEATURES).round().astype(np.int64)
        chosen = chosen[:, places]
    roots: npt.NDArray[np.float32] = np.sign(chosen) * np.sqrt(np.abs(chosen))
    return roots


def _columns(features: Floats, sizes: Sequence[int]) -> list[Floats]:
    """Return the features of each layer."""
    if features.shape[1] != sum(sizes):
        rule = f"The calibration is of another network: it knows {sum(sizes)} features"
        raise ConfigurationError(f"{rule}. Received: {features.shape[1]}")
    return np.split(features, np.cumsum(sizes)[:-1], axis=1)


def _single(array: Floats) -> npt.NDArray[np.float32]:
    return np.asarray(array, dtype=np.float32)


def pack_floats(array: Floats) -> str:
    """Return an array as float32 in base64, as JSON can hold it."""
    return base64.b64encode(np.ascontiguousarray(array, dtype="<f4").tobytes()).decode("ascii")


def unpack_floats(text: str) -> npt.NDArray[np.float64]:
    """Return the numbers that `pack_floats` wrote, shape (n,).

    Raises:
        ValueError: If they are damaged, or not finite.
    """
    array = np.frombuffer(base64.b64decode(text, validate=True), dtype="<f4").astype(np.float64)
    if not np.isfinite(array).all():
        raise ValueError("not finite")
    return array

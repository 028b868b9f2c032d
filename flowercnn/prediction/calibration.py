"""How far a classifier can be believed: temperature, prediction sets, and "I don't know". NumPy only.

All three are fitted on validation pictures, which the weights have not learned from.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from flowercnn.errors import ConfigurationError

__all__ = ["Calibration", "Familiarity", "LayerFamiliarity", "fit_temperature", "highest_expected", "scores_of_truth"]

Floats = npt.NDArray[np.floating[Any]]

_SHRINKAGE: Final = 0.01
_DIRECTIONS: Final = 32
_MOST_FEATURES: Final = 256  # of a layer
_SMALLEST: Final = 1e-12
_SMALLEST_PROBABILITY: Final = float(np.finfo(np.float32).tiny)
_FINEST: Final = 2.0**-30  # 1 minus a float32 probability from here on is exact in float64
_PART_ARRAYS: Final = ("mean", "scale", "directions", "variances")


@dataclass(frozen=True, slots=True, eq=False)
class LayerFamiliarity:
    """What one layer makes of the training pictures: a Gaussian of the square roots of its mean activations.

    The covariance of the standardised features is kept as its main directions and one variance for all the rest
    (probabilistic principal components; Tipping & Bishop 1999), which is small, and steadier than all of it.

    Args:
        size: How many features the layer has; of very many a fixed choice is looked at.
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
    def fit(cls, features: Floats) -> LayerFamiliarity:
        """Fit it to the features of training pictures, shape (n, size)."""
        learned = _prepared(features)
        mean, spread = learned.mean(axis=0), learned.std(axis=0)
        scale = spread + 0.05 * spread.mean() + _SMALLEST  # features that hardly vary must not decide
        centred = (learned - mean) / scale
        covariance = centred.T @ centred / len(centred)
        values, vectors = np.linalg.eigh(covariance)
        values, vectors = np.maximum(values[::-1], 0), vectors[:, ::-1]
        kept = min(_DIRECTIONS, len(mean))
        rest = values[kept:].mean() if kept < len(mean) else values[-1]
        level = values.mean() + _SMALLEST
        variances = (1 - _SHRINKAGE) * np.append(values[:kept], rest) + _SHRINKAGE * level
        return cls(features.shape[1], *(_single(array) for array in (mean, scale, vectors[:, :kept], variances)))

    def distances(self, features: Floats) -> npt.NDArray[np.float64]:
        """Return the squared Mahalanobis distance of each row from the mean, per feature; it is 1 on average."""
        apart = ((_prepared(features) - self.mean) / self.scale).astype(np.float64)
        # Not @: BLAS would keep its threads spinning for 30 ms after each batch, and the network waiting for them.
        along = np.einsum("ij,jk->ik", apart, self.directions)
        rest = np.maximum((apart**2).sum(axis=1) - (along**2).sum(axis=1), 0)
        total: npt.NDArray[np.float64] = (along**2 / self.variances[:-1]).sum(axis=1) + rest / self.variances[-1]
        return total / len(self.mean)


@dataclass(frozen=True, slots=True, eq=False)
class Familiarity:
    """How like the training pictures a picture is, by what the network makes of it at several depths.

    The score is the geometric mean over a few layers of the squared Mahalanobis distance from the mean of the
    training pictures (as Lee et al. 2018, with one Gaussian for all classes). The thousands of pictures of nothing
    known for which a softmax is sure of itself are far away in one layer or another.

    Args:
        layers: Names of the layers, in the order of the features.
        parts: What each makes of the training pictures.
        scores: Sorted scores of the validation pictures, float64.
    """

    layers: tuple[str, ...]
    parts: tuple[LayerFamiliarity, ...]
    scores: npt.NDArray[np.float64]

    @classmethod
    def fit(cls, sizes: Mapping[str, int], train: Floats, val: Floats) -> Familiarity:
        """Fit it to the features of training and validation pictures, each of shape (n, features).

        Args:
            sizes: How many features each layer has, by its name, in their order.
            train: Mean activations, side by side.
            val: Likewise.
        """
        parts = tuple(LayerFamiliarity.fit(part) for part in _columns(train, list(sizes.values())))
        unscored = cls(tuple(sizes), parts, np.empty(0))
        return replace(unscored, scores=np.sort(unscored.score(val)))

    def score(self, features: Floats) -> npt.NDArray[np.float64]:
        """Return how unlike the training pictures each row of mean activations (n, features) is; 1 is usual."""
        columns = _columns(features, [part.size for part in self.parts])
        distances = [part.distances(column) for part, column in zip(self.parts, columns, strict=True)]
        means: npt.NDArray[np.float64] = np.exp(np.log(np.maximum(distances, _SMALLEST)).mean(axis=0))
        return means

    def threshold(self, false_alarms: float) -> float:
        """Return the score that a share ``false_alarms`` of known pictures is expected to exceed; infinite for 0."""
        return highest_expected(self.scores, 1 - false_alarms)


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """What was fitted on the validation pictures.

    Args:
        temperature: What the logits are divided by (Guo et al. 2017); below 1 the network was too modest.
        applied: Whether the last layer of the model has it built in, so that every prediction and export has it.
        reason: Why not, and why no picture is refused as unknown, if so.
        set_scores: Sorted, float64: 1 minus the probability of the truth of each validation picture, as
            `scores_of_truth` gives them.
        familiarity: What tells pictures of nothing known, or ``None``.
        false_alarms: The share of known pictures that may be refused as unknown, 0 to below 1.
    """

    temperature: float
    applied: bool
    reason: str | None
    set_scores: npt.NDArray[np.float64]
    familiarity: Familiarity | None = None
    false_alarms: float = 0.05

    def __post_init__(self) -> None:
        check_share("false_alarms", self.false_alarms)
        object.__setattr__(self, "false_alarms", float(self.false_alarms))  # JSON and safe pickles hold no NumPy

    def set_threshold(self, coverage: float) -> float:
        """Return the least probability a class in a prediction set has (Sadinle et al. 2019).

        The truth is in such a set with at least the chance ``coverage``, for pictures of the same kind.
        """
        return 1 - highest_expected(self.set_scores, coverage)

    def unknown(self, features: Floats) -> list[str | None]:
        """Return for each row of mean activations why it shows nothing known, or ``None`` if it may."""
        if self.familiarity is None:
            return [None] * len(features)
        limit = self.familiarity.threshold(self.false_alarms)
        return [
            f"unlike the training pictures: distance {score:.2f}, where {1 - self.false_alarms:.0%} of known ones are"
            f" below {limit:.2f}"
            if score > limit
            else None
            for score in self.familiarity.score(features)
        ]

    def summary(self) -> dict[str, Any]:
        """Return what a reader wants to know of it, as JSON can hold it."""
        return {"temperature": self.temperature, "applied": self.applied, "reason": self.reason}

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        known, of_truth = self.familiarity, _single(1 - self.set_scores)
        return {
            "temperature": self.temperature,
            "applied": self.applied,
            "reason": self.reason,
            "false_alarms": self.false_alarms,
            "truth_probabilities": _packed(of_truth),
            "set_scores": _packed(1 - of_truth.astype(np.float64)),  # what version 0.1.0 reads; rounded
            "familiarity": known
            and {
                "layers": [
                    {"name": name, "size": part.size, **{key: _packed(getattr(part, key)) for key in _PART_ARRAYS}}
                    for name, part in zip(known.layers, known.parts, strict=True)
                ],
                "scores": _packed(known.scores),
            },
        }

    @classmethod
    def from_dict(cls, described: Mapping[str, Any]) -> Calibration:
        """Return the calibration that `to_dict` described.

        Raises:
            ConfigurationError: If it is damaged.
        """
        try:
            known, temperature, reason = (described[name] for name in ("familiarity", "temperature", "reason"))
            if not _is_positive(temperature):
                raise ValueError("the temperature must be a number above 0")
            if not (reason is None or isinstance(reason, str)):
                raise ValueError("the reason must be a text")
            return cls(
                temperature=float(temperature),
                applied=bool(described["applied"]),
                reason=reason,
                set_scores=_set_scores_from_dict(described),
                familiarity=None if known is None else _familiarity_from_dict(known),
                false_alarms=described["false_alarms"],
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ConfigurationError(f"The calibration kept with the model is damaged ({error}).") from error


def highest_expected(scores: npt.NDArray[np.float64], share: float) -> float:
    """Return what a new score stays at or below with at least the chance ``share``; infinite if too few are known.

    This is the quantile of split conformal prediction (Vovk et al. 2005).

    Args:
        scores: Sorted, shape (n,), of pictures of the same kind.
        share: From 0 to 1.
    """
    place = math.ceil((len(scores) + 1) * share - 1e-9)  # rounding must not make 19 of 20 the 20th
    return float(scores[max(place, 1) - 1]) if place <= len(scores) else math.inf


def scores_of_truth(probabilities: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Return the `Calibration.set_scores` of the probabilities given to the truth, shape (n,).

    1 minus a score is the probability itself to the last bit, so the picture it is of is not outside its threshold.
    Probabilities below 1e-9 count as 0: a threshold that low lets every class in.
    """
    of_truth = np.asarray(probabilities, dtype=np.float64)
    scores: npt.NDArray[np.float64] = np.sort(1 - np.where(of_truth < _FINEST, 0, of_truth))
    return scores


def fit_temperature(y_true: npt.NDArray[np.int64], y_prob: Floats) -> float:
    """Return what to divide logits by so that the probabilities fit best, from 0.05 to 20.

    Best is the least log loss, plus what a temperature is unlikely to be before any picture was seen: its logarithm
    is taken to be normal around 0. This matters where few pictures say little, such as a few that are all right.

    Args:
        y_true: Shape (n,), labels.
        y_prob: Shape (n, num_classes), of a softmax.
    """
    logits = np.log(np.maximum(np.asarray(y_prob, dtype=np.float64), _SMALLEST_PROBABILITY))

    def loss(log_temperature: float) -> float:
        scaled = logits * math.exp(-log_temperature)
        highest = scaled.max(axis=1, keepdims=True)
        norms = highest[:, 0] + np.log(np.exp(scaled - highest).sum(axis=1))
        losses = norms - scaled[np.arange(len(y_true)), y_true]
        return float(losses.sum()) + log_temperature**2 / 2

    from scipy.optimize import minimize_scalar

    bounds = (math.log(0.05), math.log(20))
    return math.exp(float(minimize_scalar(loss, bounds=bounds, method="bounded").x))


def check_share(name: str, value: float) -> None:
    """Refuse what is no share from 0 to below 1.

    Raises:
        ConfigurationError: If it is none.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float, np.floating)) or not 0 <= value < 1:
        raise ConfigurationError(f"{name} must be a share from 0 to below 1. Received: {name}={value!r}")


def _prepared(features: Floats) -> npt.NDArray[np.float32]:
    """Square roots, which make the long tails of activations short; of very many features a fixed choice."""
    chosen = np.asarray(features, dtype=np.float32)
    if chosen.shape[1] > _MOST_FEATURES:
        chosen = chosen[:, np.linspace(0, chosen.shape[1] - 1, _MOST_FEATURES).round().astype(np.int64)]
    roots: npt.NDArray[np.float32] = np.sign(chosen) * np.sqrt(np.abs(chosen))
    return roots


def _columns(features: Floats, sizes: Sequence[int]) -> list[Floats]:
    """Return the features of each layer."""
    if features.shape[1] != sum(sizes):
        raise ConfigurationError(
            f"The calibration is of another network: it knows {sum(sizes)} features. Received: {features.shape[1]}"
        )
    return np.split(features, np.cumsum(sizes)[:-1], axis=1)


def _single(array: Floats) -> npt.NDArray[np.float32]:
    return np.asarray(array, dtype=np.float32)


def _set_scores_from_dict(described: Mapping[str, Any]) -> npt.NDArray[np.float64]:
    if "truth_probabilities" in described:
        return 1 - _unpacked(described["truth_probabilities"])
    return _unpacked(described["set_scores"])


def _familiarity_from_dict(described: Mapping[str, Any]) -> Familiarity:
    names = tuple(str(layer["name"]) for layer in described["layers"])
    if not names:
        raise ValueError("there are no layers to tell unknown pictures by")
    parts = tuple(_part_from_dict(layer) for layer in described["layers"])
    return Familiarity(names, parts, _unpacked(described["scores"]))


def _part_from_dict(described: Mapping[str, Any]) -> LayerFamiliarity:
    mean, scale, directions, variances = (_single(_unpacked(described[part])) for part in _PART_ARRAYS)
    size, count = described["size"], len(mean)
    if not isinstance(size, int) or not 1 <= count == len(scale) == min(size, _MOST_FEATURES):
        raise ValueError("a layer's features do not fit together")
    if not len(variances) or len(directions) != count * (len(variances) - 1):
        raise ValueError("a layer's directions and variances do not fit together")
    if (variances <= 0).any() or (scale <= 0).any():
        raise ValueError("a layer's variances and scales must be above 0")
    return LayerFamiliarity(size, mean, scale, directions.reshape(count, -1), variances)


def _is_positive(value: object) -> bool:
    """Return whether this is a finite number above 0."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf


def _packed(array: Floats) -> str:
    return base64.b64encode(np.ascontiguousarray(array, dtype="<f4").tobytes()).decode("ascii")


def _unpacked(text: str) -> npt.NDArray[np.float64]:
    array = np.frombuffer(base64.b64decode(text, validate=True), dtype="<f4").astype(np.float64)
    if not np.isfinite(array).all():
        raise ValueError("not finite")
    return array

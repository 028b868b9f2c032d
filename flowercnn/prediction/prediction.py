"""Prediction: the result for one image."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

import numpy as np
import numpy.typing as npt

from flowercnn._utils import check_count

__all__ = ["Prediction"]


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """Prediction for one image, or why it could not be made.

    Args:
        key: The image: its path, its sample's key, or its number among those given.
        label: The most probable class name; ``None`` if the image could not be used, or is
            unknown.
        confidence: The highest probability, 0-1; 0 after an error.
        class_names: All classes, in the order of ``probabilities``.
        probabilities: Shape (num_classes,), float32, sum 1; ``None`` if the image could not be
            used.
        error: Why the image could not be used, or ``None``.
        reason: Why the image is unknown (out of distribution), or ``None``; `top` still gives the
            most probable classes.
    """

    key: str
    label: str | None
    confidence: float
    class_names: tuple[str, ...]
    probabilities: npt.NDArray[np.float32] | None
    error: str | None = None
    reason: str | None = None

    @classmethod
    def of(
        cls,
        key: str,
        class_names: tuple[str, ...],
        probabilities: npt.NDArray[np.float32],
        reason: str | None = None,
    ) -> Prediction:
        """Return the prediction of a row of probabilities; without a label if there is a reason."""
        best = int(probabilities.argmax())
        label = class_names[best] if reason is None else None
        confidence = float(probabilities[best])
        return cls(key, label, confidence, class_names, probabilities, reason=reason)

    @classmethod
    def failed(cls, key: str, class_names: tuple[str, ...], error: str) -> Prediction:
        """Return the record of an image that could not be used."""
        return cls(key, None, 0.0, class_names, None, error)

    def top(self, k: int = 5) -> list[tuple[str, float]]:
        """Return the ``k`` most probable classes and their probabilities; empty after an error.

        Raises:
            ConfigurationError: If ``k`` is not an int of at least 1.
        """
        k = check_count("k", k)
        if self.probabilities is None:
            return []
        order = np.argsort(-self.probabilities, kind="stable")[:k]
        return [(self.class_names[label], float(self.probabilities[label])) for label in order]

    def _repr_html_(self) -> str:
        if self.error is not None:
            return f"<p><strong>{escape(self.key)}</strong>: {escape(self.error)}</p>"
        answer = self.label if self.reason is None else f"unknown ({self.reason})"
        rows = "".join(
            f"<tr><td style='text-align:left'>{escape(name)}</td><td>{share:.1%}</td><td>"
            f"<progress value='{share:.4f}' max='1' aria-label='{share:.0%}'></progress></td></tr>"
            for name, share in self.top(5)
        )
        head = f"<p>{escape(self.key)}: <strong>{escape(answer or '')}</strong></p>"
        return f"{head}<table><tbody>{rows}</tbody></table>"

    def __repr__(self) -> str:
        if self.error is not None:
            return f"Prediction(key={self.key!r}, error={self.error!r})"
        if self.reason is not None:
            return f"Prediction(key={self.key!r}, label=None, reason={self.reason!r})"
        confidence = f"confidence={self.confidence:.3f}"
        return f"Prediction(key={self.key!r}, label={self.label!r}, {confidence})"

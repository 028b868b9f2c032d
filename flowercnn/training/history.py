"""What happened in each epoch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flowercnn.atomic import replace_file

__all__ = ["History"]


@dataclass(frozen=True, slots=True)
class History:
    """One mapping per finished epoch, with the keys ``loss``, ``accuracy``, ``learning_rate`` and ``seconds``.

    With validation data there are ``val_loss`` and ``val_accuracy`` too. ``loss`` and ``accuracy`` are means over the
    pictures as they were trained on, augmented, while the weights changed; those of val are taken at the epoch's end.

    Args:
        epochs: The mappings, in order.
    """

    epochs: tuple[Mapping[str, float], ...] = ()

    def __len__(self) -> int:
        return len(self.epochs)

    def to_dict(self) -> dict[str, list[float]]:
        """Return a list per quantity, as ``keras.callbacks.History.history`` has it."""
        return {name: [epoch[name] for epoch in self.epochs] for name in (self.epochs[0] if self.epochs else ())}

    def figure(self) -> Any:
        """Return a ``matplotlib.figure.Figure`` with the curves of accuracy and loss over the epochs."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(10, 4), layout="constrained")
        curves = self.to_dict()
        numbers = range(1, len(self) + 1)
        for axes, quantity in zip(figure.subplots(1, 2), ("accuracy", "loss"), strict=True):
            for name, label, style in ((quantity, "train", "-"), (f"val_{quantity}", "val", "--")):
                if name in curves:
                    axes.plot(numbers, curves[name], style, label=label, marker="." if len(self) == 1 else None)
            axes.set(xlabel="epoch", ylabel=quantity, title=quantity.capitalize())
            axes.grid(alpha=0.3)
            if axes.lines:
                axes.legend()
            axes.set_ylim(bottom=0, top=1 if quantity == "accuracy" else None)
        return figure

    def plot(self, path: str | os.PathLike[str]) -> Path:
        """Save the curves to a picture file (``.png``, ``.svg`` or ``.pdf``) and return its path."""
        return replace_file(path, lambda temporary: self.figure().savefig(temporary, dpi=120))

"""Checkpoints: the state from which a training continues to the same bits."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from flowercnn._utils import read_arrays, write_arrays
from flowercnn.errors import TrainingError
from flowercnn.training.run import History

__all__ = ["Checkpoint", "Checkpoints"]

_NAME = "checkpoint.npz"


class Checkpoint(NamedTuple):
    """The state at the end of an epoch.

    Args:
        arrays: Lists of arrays by name: the variables of the network, of the optimizer, ...
        history: The epochs so far; the next epoch's number is their count.
        epochs: How many epochs the training has in all.
    """

    arrays: Mapping[str, Sequence[Any]]
    history: History
    epochs: int

    @property
    def seconds(self) -> float:
        """How long the epochs so far took."""
        return sum(self.history.seconds)


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """Checkpoints of one training, each in place of the one before.

    Args:
        folder: Where they are; created if needed.
        fingerprint: Identifies everything that decides about the weights: no other training
            continues from them.
    """

    folder: Path
    fingerprint: str

    def write(self, checkpoint: Checkpoint) -> None:
        """Write the checkpoint, whole or not at all, in place of the one before.

        Raises:
            TrainingError: If it cannot be written, or another training has written there since this
                one began.
        """
        path = self.folder / _NAME
        if _fingerprint_of(path) not in (None, self.fingerprint):
            raise _of_another(path)
        history = [
            {**epoch, "seconds": seconds}
            for epoch, seconds in zip(
                checkpoint.history.epochs, checkpoint.history.seconds, strict=True
            )
        ]
        counts = {name: len(values) for name, values in checkpoint.arrays.items() if len(values)}
        about = {
            "fingerprint": self.fingerprint,
            "history": history,
            "epochs": checkpoint.epochs,
            "arrays": counts,
        }
        arrays = {
            f"{name}:{number:04d}": value
            for name, values in checkpoint.arrays.items()
            for number, value in enumerate(values)
        }
        try:
            write_arrays(path, arrays, about)
        except OSError as error:
            raise TrainingError(
                f"{self.folder}: the checkpoint cannot be written ({error.strerror or error})."
            ) from error

    def read(self) -> Checkpoint | None:
        """Return the checkpoint in a folder, or ``None`` if there is none.

        Raises:
            TrainingError: If it cannot be read or belongs to another training.
        """
        path = self.folder / _NAME
        if not path.exists():
            return None
        arrays: dict[str, list[Any]] = {}
        try:
            about, stored = read_arrays(path)
            for name in sorted(stored):
                arrays.setdefault(name.partition(":")[0], []).append(stored[name])
            history, epochs = _read_history(about["history"]), int(about["epochs"])
            belongs = about["fingerprint"] == self.fingerprint
            counts = {name: len(values) for name, values in arrays.items()}
            is_whole = about.get("arrays", counts) == counts  # earlier versions did not count
        except Exception as error:  # numpy and zipfile raise anything on damaged files
            raise _damaged(path) from error
        if not is_whole:
            raise _damaged(path)
        if not belongs:
            raise _of_another(path)
        return Checkpoint(arrays, history, epochs)


def _read_history(stored: Sequence[Mapping[str, float]]) -> History:
    history = History()
    for epoch in stored:
        figures = {name: value for name, value in epoch.items() if name != "seconds"}
        history = history.followed_by(figures, epoch.get("seconds", 0.0))
    return history


def _fingerprint_of(path: Path) -> str | None:
    """Return the fingerprint of a checkpoint file, or ``None`` if it cannot be read."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            return str(json.loads(str(stored["about"]))["fingerprint"])
    except Exception:  # noqa: BLE001 - numpy and zipfile raise anything on damaged files
        return None


def _damaged(path: Path) -> TrainingError:
    return TrainingError(f"{path}: the checkpoint is damaged. Remove it to start over.")


def _of_another(path: Path) -> TrainingError:
    return TrainingError(
        f"{path}: the checkpoint belongs to another training (other data, model, seed or "
        "settings). "
        "Give another checkpoint_dir, or remove it to start over."
    )

"""A checkpoint: all that is needed to go on with a training exactly where it was."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from flowercnn.atomic import replace_file
from flowercnn.errors import TrainingError
from flowercnn.training.history import History

__all__ = ["Checkpoint", "read_checkpoint", "write_checkpoint"]

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


def write_checkpoint(folder: Path, fingerprint: str, checkpoint: Checkpoint) -> None:
    """Write the checkpoint, whole or not at all; the one before is replaced only by a complete one.

    Raises:
        TrainingError: If it cannot be written.
    """
    history = list(map(dict, checkpoint.history.epochs))
    about = json.dumps({"fingerprint": fingerprint, "history": history, "epochs": checkpoint.epochs})
    arrays = {
        f"{name}:{number:04d}": value
        for name, values in checkpoint.arrays.items()
        for number, value in enumerate(values)
    }
    try:
        replace_file(folder / _NAME, lambda temporary: np.savez(temporary, about=np.array(about), **arrays))
    except OSError as error:
        raise TrainingError(f"{folder}: the checkpoint cannot be written ({error.strerror or error}).") from error


def read_checkpoint(folder: Path, fingerprint: str) -> Checkpoint | None:
    """Return the checkpoint in a folder, or ``None`` if there is none.

    Raises:
        TrainingError: If it cannot be read or belongs to another training.
    """
    path = folder / _NAME
    if not path.exists():
        return None
    arrays: dict[str, list[Any]] = {}
    try:
        with np.load(path, allow_pickle=False) as stored:
            about = json.loads(str(stored["about"]))
            for name in sorted(set(stored.files) - {"about"}):
                arrays.setdefault(name.partition(":")[0], []).append(stored[name])
        history, epochs = History(tuple(about["history"])), int(about["epochs"])
        belongs = about["fingerprint"] == fingerprint
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise TrainingError(f"{path}: the checkpoint is damaged. Remove it to start anew.") from error
    if not belongs:
        raise TrainingError(
            f"{path}: the checkpoint belongs to another training (other data, model, seed or settings). "
            "Give another checkpoint_dir, or remove it to start anew."
        )
    return Checkpoint(arrays, history, epochs)

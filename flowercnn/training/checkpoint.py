"""A checkpoint: all that is needed to go on with a training exactly where it was."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
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
        model: The variables of the network, in Keras's order.
        optimizer: The variables of the optimizer.
        history: The epochs so far; the next epoch's number is their count.
    """

    model: Sequence[Any]
    optimizer: Sequence[Any]
    history: History


def write_checkpoint(folder: Path, fingerprint: str, checkpoint: Checkpoint) -> None:
    """Write the checkpoint, whole or not at all; the one before is replaced only by a complete one.

    Raises:
        TrainingError: If it cannot be written.
    """
    about = json.dumps({"fingerprint": fingerprint, "history": list(map(dict, checkpoint.history.epochs))})
    arrays = {f"model{number:04d}": value for number, value in enumerate(checkpoint.model)}
    arrays |= {f"optimizer{number:04d}": value for number, value in enumerate(checkpoint.optimizer)}
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
    try:
        with np.load(path, allow_pickle=False) as arrays:
            about = json.loads(str(arrays["about"]))
            names = sorted(set(arrays.files) - {"about"})
            model = [arrays[name] for name in names if name.startswith("model")]
            optimizer = [arrays[name] for name in names if name.startswith("optimizer")]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise TrainingError(f"{path}: the checkpoint is damaged. Remove it to start anew.") from error
    if about["fingerprint"] != fingerprint:
        raise TrainingError(
            f"{path}: the checkpoint belongs to another training (other data, model, seed or settings). "
            "Give another checkpoint_dir, or remove it to start anew."
        )
    return Checkpoint(model, optimizer, History(tuple(about["history"])))

"""What a fold of a cross-validation brought, kept on disk: a stopped one goes on where it was."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from flowercnn.atomic import replace_file
from flowercnn.dataset import Dataset
from flowercnn.errors import TrainingError
from flowercnn.evaluation.evaluation import Evaluation

__all__ = ["keep_evaluation", "kept_evaluation"]


def keep_evaluation(path: Path, evaluation: Evaluation, fingerprint: str) -> None:
    """Write the answers of an evaluation to a file, whole or not at all.

    Raises:
        TrainingError: If it cannot be written.
    """
    about = {"fingerprint": fingerprint, "skipped": evaluation.skipped, "info": evaluation.info}

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez(file, keys=np.array(evaluation.keys), y_prob=evaluation.y_prob, about=json.dumps(about))

    try:
        replace_file(path, write)
    except OSError as error:
        raise TrainingError(f"{path}: the fold cannot be kept ({error.strerror or error}).") from error


def kept_evaluation(path: Path, dataset: Dataset, fingerprint: str) -> Evaluation | None:
    """Return the evaluation on ``dataset`` kept in a file, or ``None`` if there is none.

    Raises:
        TrainingError: If it is of other data or settings, or damaged.
    """
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            keys, y_prob, about = file["keys"].tolist(), file["y_prob"], json.loads(str(file["about"]))
        if about["fingerprint"] != fingerprint:
            raise TrainingError(
                f"{path}: is of other data, settings or seed. Use another checkpoint_dir, or delete this one."
            )
        place = {key: index for index, key in enumerate(dataset.keys)}
        kept = [place[key] for key in keys]
        return Evaluation(
            class_names=dataset.class_names,
            keys=tuple(keys),
            y_true=dataset.labels[kept],
            y_prob=y_prob,
            skipped=tuple(about["skipped"]),
            samples=tuple(dataset.samples[index] for index in kept),
            info=about["info"],
        )
    except TrainingError:
        raise
    except Exception as error:  # numpy and zipfile raise anything on damaged files
        raise TrainingError(
            f"{path}: damaged ({type(error).__name__}). Delete it to train this fold again."
        ) from error

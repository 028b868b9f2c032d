"""Write the model file of the present version: python tests/saving/files/write.py."""

from __future__ import annotations

import json
from pathlib import Path

import keras
import numpy as np

import flowercnn as fc

HERE = Path(__file__).parent
PIXELS = (np.arange(2 * 16 * 16 * 3) * 7 % 256).astype(np.uint8).reshape(2, 16, 16, 3)


def main() -> None:
    """Train a tiny network a little, save it, and note what it says."""
    layers = [
        keras.Input((16, 16, 3), name="pixels"),
        keras.layers.Rescaling(1 / 255),
        keras.layers.Conv2D(4, 3, strides=2, use_bias=False),
        keras.layers.BatchNormalization(),
        keras.layers.ReLU(),
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dense(3, activation="softmax"),
    ]
    run = fc.train(
        fc.SyntheticFlowers(per_class=12, num_classes=3),
        model=keras.Sequential(layers),
        epochs=3,
        progress=False,
    )
    predictor = run.predictor
    predictor.save(HERE / f"{fc.__version__}.keras")
    answers = {
        "class_names": predictor.class_names,
        "probabilities": predictor.predict_proba(PIXELS).tolist(),
    }
    (HERE / f"{fc.__version__}.json").write_text(
        json.dumps(answers, indent=1) + "\n", encoding="utf-8"
    )


if __name__ == "__main__":
    main()

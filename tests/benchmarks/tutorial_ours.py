"""The tutorial's task with flowercnn, the other side of tutorial.py."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import flowercnn as fc

root, epochs, test_share = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
size = (500, 500)
with tempfile.TemporaryDirectory() as cache:  # a first run: nothing is decoded before
    run = fc.train(
        root,
        model="article",
        epochs=epochs,
        val=0,
        test=test_share,
        callbacks=[],
        preprocessing=fc.Preprocessing(image_size=size, resize="stretch", cache_dir=Path(cache)),
        progress=False,
    )
if run.evaluation is None or run.splits is None:
    sys.exit("no test part")
parameters = run.predictor.model.count_params()
print(
    json.dumps(
        {
            "parameters": parameters,
            "accuracy": run.evaluation.accuracy,
            "train": len(run.splits.train),
        }
    )
)

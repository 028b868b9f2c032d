"""From folders of pictures to an image classifier you can trust, on an ordinary CPU, in a few lines.

    import flowercnn as fc

    run = fc.train("photos/", out="model.keras")
    fc.Predictor.load("model.keras").predict_one("new.jpg")

This is the one door: everything public is a name here. Importing it imports nothing else; each name brings its
module with it when it is first used, and TensorFlow comes only with what needs it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flowercnn.dataset import Dataset as Dataset
    from flowercnn.errors import ConfigurationError as ConfigurationError
    from flowercnn.errors import DataError as DataError
    from flowercnn.errors import FlowerCNNError as FlowerCNNError
    from flowercnn.errors import ImageError as ImageError
    from flowercnn.errors import MissingDependencyError as MissingDependencyError
    from flowercnn.errors import ModelFileError as ModelFileError
    from flowercnn.errors import SourceError as SourceError
    from flowercnn.errors import SplitError as SplitError
    from flowercnn.errors import TrainingError as TrainingError
    from flowercnn.errors import UnknownNameError as UnknownNameError
    from flowercnn.evaluation.evaluation import Evaluation as Evaluation
    from flowercnn.evaluation.evaluation import evaluate as evaluate
    from flowercnn.models.registry import build_model as build_model
    from flowercnn.models.registry import list_models as list_models
    from flowercnn.models.registry import register_model as register_model
    from flowercnn.prediction.prediction import Prediction as Prediction
    from flowercnn.prediction.predictor import Predictor as Predictor
    from flowercnn.preprocessing.preprocessing import Preprocessing as Preprocessing
    from flowercnn.sources.base import DataSource as DataSource
    from flowercnn.sources.base import Sample as Sample
    from flowercnn.sources.flowers import Flower17 as Flower17
    from flowercnn.sources.flowers import Flower102 as Flower102
    from flowercnn.sources.folder import ImageFolder as ImageFolder
    from flowercnn.sources.memory import InMemory as InMemory
    from flowercnn.sources.plugins import open_source as open_source
    from flowercnn.sources.synthetic import SyntheticFlowers as SyntheticFlowers
    from flowercnn.sources.table import ImageTable as ImageTable
    from flowercnn.sources.tensorbay import TensorBay as TensorBay
    from flowercnn.splits import Splits as Splits
    from flowercnn.training.run import TrainingRun as TrainingRun
    from flowercnn.training.trainer import Trainer as Trainer
    from flowercnn.workflow import train as train

__version__ = "0.1.0"

_HOME = {
    "ConfigurationError": "errors",
    "DataError": "errors",
    "DataSource": "sources.base",
    "Dataset": "dataset",
    "Evaluation": "evaluation.evaluation",
    "Flower102": "sources.flowers",
    "Flower17": "sources.flowers",
    "FlowerCNNError": "errors",
    "ImageError": "errors",
    "ImageFolder": "sources.folder",
    "ImageTable": "sources.table",
    "InMemory": "sources.memory",
    "MissingDependencyError": "errors",
    "ModelFileError": "errors",
    "Prediction": "prediction.prediction",
    "Predictor": "prediction.predictor",
    "Preprocessing": "preprocessing.preprocessing",
    "Sample": "sources.base",
    "SourceError": "errors",
    "SplitError": "errors",
    "Splits": "splits",
    "SyntheticFlowers": "sources.synthetic",
    "TensorBay": "sources.tensorbay",
    "Trainer": "training.trainer",
    "TrainingError": "errors",
    "TrainingRun": "training.run",
    "UnknownNameError": "errors",
    "build_model": "models.registry",
    "evaluate": "evaluation.evaluation",
    "list_models": "models.registry",
    "open_source": "sources.plugins",
    "register_model": "models.registry",
    "train": "workflow",
}

__all__ = [  # noqa: PLE0604 - the table above, which a test compares with the imports type checkers see
    *_HOME,
    "__version__",
]


def __getattr__(name: str) -> object:
    """Import the module of a public name when it is first used."""
    if name not in _HOME:
        raise AttributeError(f"module 'flowercnn' has no attribute {name!r}")
    value = getattr(import_module(f"flowercnn.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})

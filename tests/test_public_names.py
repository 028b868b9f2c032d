from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest

import flowercnn as fc

PUBLIC = {
    *("DataSource", "Sample", "ImageFolder", "TensorBay", "Flower17", "Flower102", "ImageTable", "InMemory"),
    *("SyntheticFlowers", "open_source", "Dataset", "Splits", "Preprocessing", "build_model", "register_model"),
    *("list_models", "Trainer", "TrainingRun", "evaluate", "Evaluation", "Predictor", "Prediction", "train"),
    *("FlowerCNNError", "ConfigurationError", "UnknownNameError", "DataError", "SplitError", "ImageError"),
    *("SourceError", "ModelFileError", "TrainingError", "MissingDependencyError", "__version__"),
}


def test_the_door_has_exactly_the_public_names() -> None:
    assert set(fc.__all__) == PUBLIC


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_every_public_name_can_be_imported_and_says_what_it_is(name: str) -> None:
    value = getattr(fc, name)
    assert name == "__version__" or inspect.getdoc(value)


def test_type_checkers_and_python_are_told_the_same_names() -> None:
    tree = ast.parse(Path(fc.__file__).read_text(encoding="utf-8"))
    told = {
        (alias.name, node.module)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("flowercnn.")
        for alias in node.names
    }
    assert told == {(name, f"flowercnn.{module}") for name, module in fc._HOME.items()}


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'loader'"):
        fc.loader  # noqa: B018  # type: ignore[attr-defined]


def test_dir_lists_the_public_names() -> None:
    assert set(dir(fc)) >= PUBLIC


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import sys, flowercnn; print(*{'tensorflow', 'keras', 'numpy', 'PIL', 'sklearn'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_data_and_metrics_work_without_tensorflow() -> None:
    code = (
        "import sys; sys.modules['tensorflow'] = sys.modules['keras'] = None\n"
        "import numpy as np, flowercnn as fc\n"
        "from flowercnn.evaluation.metrics import wilson_interval\n"
        "d = fc.Dataset.from_source(fc.InMemory(np.zeros((8, 9, 9, 3), np.uint8), list('aabbaabb')))\n"
        "d.split(0.25, 0.25); d.audit(progress=False); wilson_interval(1, 2)\n"
        "print(fc.Preprocessing(image_size=(4, 4)).load(d.samples, progress=False)[0].take([0]).shape)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "(1, 4, 4, 3)"


def test_the_package_says_that_it_is_typed() -> None:
    assert resources.files("flowercnn").joinpath("py.typed").is_file()


@pytest.mark.parametrize("name", sorted(n for n in PUBLIC if n.endswith("Error") and n != "FlowerCNNError"))
def test_every_error_is_a_flowercnn_error_and_a_builtin_one(name: str) -> None:
    error = getattr(fc, name)
    assert issubclass(error, fc.FlowerCNNError)
    assert issubclass(error, (ValueError, OSError, RuntimeError, ImportError, LookupError))

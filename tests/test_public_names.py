from __future__ import annotations

import inspect
import pkgutil
import subprocess
import sys
from importlib import import_module, resources

import pytest

import flowercnn as fc

PUBLIC = {
    *(
        "DataSource",
        "Sample",
        "ImageFolder",
        "TensorBay",
        "Flower17",
        "Flower102",
        "ImageTable",
        "InMemory",
    ),
    *(
        "SyntheticFlowers",
        "open_source",
        "Dataset",
        "Splits",
        "Preprocessing",
        "build_model",
        "register_model",
    ),
    *(
        "list_models",
        "Trainer",
        "TrainingRun",
        "evaluate",
        "Evaluation",
        "Predictor",
        "Prediction",
        "train",
    ),
    *(
        "FlowerCNNError",
        "ConfigurationError",
        "UnknownNameError",
        "DataError",
        "SplitError",
        "ImageError",
    ),
    *("SourceError", "ModelFileError", "TrainingError", "MissingDependencyError", "OutputError"),
    *(
        "Recipe",
        "Augmentation",
        "Mixing",
        "cross_validate",
        "compare",
        "calibrate",
        "AuditReport",
        "Calibration",
    ),
}
PACKAGES = (
    "data",
    "evaluation",
    "models",
    "prediction",
    "preprocessing",
    "runtimes",
    "saving",
    "sources",
    "testing",
)
DOORS = ("flowercnn", *(f"flowercnn.{name}" for name in (*PACKAGES, "training", "_utils")))


def test_the_door_has_exactly_the_public_names() -> None:
    assert set(fc.__all__) == PUBLIC


@pytest.mark.parametrize("door", DOORS)
def test_every_name_of_a_door_can_be_imported_and_says_what_it_is(door: str) -> None:
    package = import_module(door)
    for name in package.__all__:
        value = getattr(package, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert inspect.getdoc(value), name


@pytest.mark.parametrize("door", DOORS)
def test_dir_lists_the_names_of_a_door_and_nothing_else(door: str) -> None:
    assert dir(import_module(door)) == sorted(import_module(door).__all__)


@pytest.mark.parametrize("door", DOORS)
def test_an_unknown_name_is_an_attribute_error(door: str) -> None:
    with pytest.raises(AttributeError, match=f"module '{door}' has no attribute 'loader'"):
        import_module(door).loader  # noqa: B018


@pytest.mark.parametrize("door", DOORS)
def test_no_name_of_a_door_is_that_of_a_module_which_would_hide_it(door: str) -> None:
    package = import_module(door)
    assert not {module.name for module in pkgutil.iter_modules(package.__path__)} & set(
        package.__all__
    )


def test_packages_are_attributes_without_an_import() -> None:
    names = "fc.sources.concat.__name__, fc.evaluation.label_issues.__name__"
    code = f"import flowercnn as fc; print({names})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["concat", "label_issues"]


@pytest.mark.parametrize(
    ("old", "name", "new"),
    [
        ("flowercnn.splits", "Fold", "flowercnn.data"),
        ("flowercnn.audit", "AuditReport", "flowercnn.data"),
        ("flowercnn.contents", "Content", "flowercnn.data"),
        ("flowercnn.training.history", "History", "flowercnn.training"),
        ("flowercnn.training.finder", "LearningRates", "flowercnn.training"),
        ("flowercnn.training.search", "search", "flowercnn.training"),
        ("flowercnn.preprocessing.cache", "clear_cache", "flowercnn.preprocessing"),
        ("flowercnn.preprocessing.mixing", "Mixing", "flowercnn.preprocessing"),
        ("flowercnn.prediction.exports", "ExportReport", "flowercnn.saving"),
        ("flowercnn.prediction.calibrate", "calibrate", "flowercnn.prediction"),
        ("flowercnn.evaluation.labels", "label_issues", "flowercnn.evaluation"),
        ("flowercnn.evaluation.figures", "Metric", "flowercnn.evaluation"),
        ("flowercnn.evaluation.compare", "compare", "flowercnn.evaluation"),
        ("flowercnn.workflow", "cross_validate", "flowercnn.training"),
    ],
)
def test_paths_that_were_documented_still_work_and_say_where_to_go(
    old: str, name: str, new: str
) -> None:
    with pytest.warns(
        DeprecationWarning, match=f"{old}.{name} will be removed in flowercnn 0.3: use {new}.{name}"
    ):
        value = getattr(import_module(old), name)
    assert value is getattr(import_module(new), name)
    with pytest.raises(AttributeError, match=f"module '{old}' has no attribute 'nothing'"):
        import_module(old).nothing  # noqa: B018


def test_importing_the_package_imports_nothing_heavy() -> None:
    heavy = {"tensorflow", "keras", "numpy", "PIL", "sklearn"}
    code = f"import sys, flowercnn; print(*{heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_data_and_metrics_work_without_tensorflow() -> None:
    code = (
        "import sys; sys.modules['tensorflow'] = sys.modules['keras'] = None\n"
        "import numpy as np, flowercnn as fc\n"
        "from flowercnn.evaluation.metrics import wilson_interval\n"
        "d = fc.Dataset.from_source(fc.InMemory(np.zeros((8, 9, 9, 3), np.uint8), "
        "list('aabbaabb')))\n"
        "d.split(0.25, 0.25); d.audit(progress=False); wilson_interval(1, 2)\n"
        "print(fc.Preprocessing(image_size=(4, 4)).load(d.samples, "
        "progress=False)[0].take([0]).shape)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "(1, 4, 4, 3)"


def test_the_package_says_that_it_is_typed() -> None:
    assert resources.files("flowercnn").joinpath("py.typed").is_file()


@pytest.mark.parametrize(
    "name", sorted(n for n in PUBLIC if n.endswith("Error") and n != "FlowerCNNError")
)
def test_every_error_is_a_flowercnn_error_and_a_builtin_one(name: str) -> None:
    error = getattr(fc, name)
    assert issubclass(error, fc.FlowerCNNError)
    assert issubclass(error, (ValueError, OSError, RuntimeError, ImportError, LookupError))

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import flowercnn as fc
from flowercnn.errors import MissingDependencyError
from flowercnn.models.backend import import_keras
from flowercnn.models.registry import recipe_of

pytestmark = pytest.mark.versions

hub = pytest.importorskip("keras_hub", reason="KerasHub is not installed: pip install keras-hub")

SETTINGS: dict[str, Any] = {
    "input_conv_filters": [64],
    "input_conv_kernel_sizes": [3],
    "stackwise_num_filters": [64, 16],
    "stackwise_num_blocks": [1, 1],
    "stackwise_num_strides": [1, 2],
    "block_type": "basic_block",
}


@pytest.fixture(scope="module")
def preset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small ResNet with random weights, saved as KerasHub saves its own, in a folder with
    capitals."""
    folder = tmp_path_factory.mktemp("Preset")
    import_keras().utils.set_random_seed(0)
    net = hub.models.ResNetBackbone(**SETTINGS)
    scale, offset = [0.017, 0.018, 0.019], [-2.1, -2.0, -1.8]
    net.save_to_preset(str(folder))
    hub.layers.ResNetImageConverter(image_size=(32, 32), scale=scale, offset=offset).save_to_preset(
        str(folder)
    )
    return folder


def test_a_preset_of_kerashub_is_a_model_scaled_as_the_preset_says(preset: Path) -> None:
    model = fc.build_model(f"backbone:hub:{preset}", image_size=(32, 32), num_classes=3)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype(np.float32)
    converter = hub.layers.ImageConverter.from_preset(str(preset))
    reference = hub.models.Backbone.from_preset(str(preset))(converter(pixels))
    pooled = import_keras().Model(model.inputs[0], model.get_layer("pool").output)
    assert np.allclose(pooled(pixels), np.asarray(reference).mean(axis=(1, 2)), atol=1e-4)
    assert recipe_of(f"backbone:hub:{preset}") == recipe_of("backbone:resnet50")


def test_it_trains_and_its_file_needs_no_kerashub(
    preset: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    dataset = fc.Dataset.from_source(fc.SyntheticFlowers(per_class=4, num_classes=2))
    run = fc.Trainer(f"backbone:hub:{preset}", image_size=(32, 32)).fit(dataset, progress=False)
    run.predictor.save(tmp_path / "model.keras")
    monkeypatch.setitem(sys.modules, "keras_hub", None)
    loaded = fc.Predictor.load(tmp_path / "model.keras", runtime="keras")
    pixels, _ = loaded.preprocessing.load(dataset.samples, progress=False)
    array = pixels.take(range(len(dataset)))
    assert np.allclose(loaded.predict_proba(array), run.predictor.predict_proba(array), atol=1e-5)
    with pytest.raises(MissingDependencyError, match=r"pip install 'flowercnn\[kerashub\]'"):
        fc.build_model(f"backbone:hub:{preset}", image_size=(32, 32), num_classes=3)


def test_what_kerashub_cannot_load_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        fc.SourceError, match=r"empty: KerasHub cannot load this preset .*backbone:hub:FOLDER"
    ):
        fc.build_model(f"backbone:hub:{tmp_path / 'empty'}", image_size=(32, 32), num_classes=3)


def test_networks_of_foreign_layers_are_refused(tmp_path: Path) -> None:
    net = hub.models.ViTBackbone(
        image_shape=(32, 32, 3), patch_size=16, num_layers=1, num_heads=2, hidden_dim=8, mlp_dim=8
    )
    net.save_to_preset(str(tmp_path))
    with pytest.raises(fc.ConfigurationError, match=r"layers of KerasHub's own \(.*ViT"):
        fc.build_model(f"backbone:hub:{tmp_path}", image_size=(32, 32), num_classes=3)

from __future__ import annotations

import dataclasses
import gc
import hashlib
import inspect
import json
import logging
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import h5py
import numpy as np
import pytest

import flowercnn as fc
from flowercnn.models import weights as weights_module
from flowercnn.models.backbone_table import BACKBONES
from flowercnn.models.backbones import build_backbone
from flowercnn.models.backend import import_keras
from flowercnn.models.copies import fold_normalization
from flowercnn.models.graph import head_of
from flowercnn.models.weights import fetch_weights
from flowercnn.saving.guards.keras_config import check_network
from flowercnn.training.transfer.features import freeze

QUICK = ("mobilenet", "mobilenetv3small", "vgg16")
"""Built in every run; the others are slow, and ``nox -s backbones`` runs all."""


@pytest.fixture(autouse=True)
def _memory_is_given_back() -> Iterator[None]:
    """Keras keeps what was built for a while; all networks together would take more memory than
    there is."""
    yield
    import_keras().utils.clear_session()
    gc.collect()


def side(name: str) -> int:
    return max(33 if name.startswith("convnext") else 32, BACKBONES[name].smallest)


def shaken(net: Any) -> Any:
    """The network with normalisations that have seen data."""
    random = np.random.default_rng(1)
    # With random weights of full strength the deepest is chaotic: rounding grows to any size, in
    # float64 as well.
    strength = 0.7 if net.name == "efficientnetv2-l" else 1.0
    for weight in net.weights:
        kind = weight.path.rpartition("/")[2]
        if kind in ("gamma", "beta", "moving_mean", "moving_variance"):
            moved = np.asarray(weight) + np.abs(random.normal(0, 0.02, weight.shape)).astype(
                np.float32
            )
            weight.assign(strength * moved if kind == "gamma" else moved)
    return net


def original(name: str, **options: Any) -> Any:
    function = getattr(import_keras().applications, BACKBONES[name].function)
    return function(
        weights=None, include_top=False, input_shape=(side(name), side(name), 3), **options
    )


def reference_scaling(name: str, pixels: Any) -> Any:
    applications = import_keras().applications
    if name.startswith(
        "resnet"
    ):  # their functions live together in one module, for several preprocessings
        module = applications.resnet_v2 if name.endswith("v2") else applications.resnet
    else:
        module = inspect.getmodule(getattr(applications, BACKBONES[name].function))
    return module.preprocess_input(pixels.copy())


def pictures(name: str) -> Any:
    return (
        np.random.default_rng(0).integers(0, 256, (2, side(name), side(name), 3)).astype(np.float32)
    )


def features(model: Any, pixels: Any) -> Any:
    keras = import_keras()
    return np.asarray(keras.Model(model.inputs[0], head_of(model).input)(pixels, training=False))


def pooled(net: Any, pixels: Any) -> Any:
    return evened(np.asarray(net(pixels, training=False)).mean(axis=(1, 2)))


def unit(rows: Any) -> Any:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def evened(rows: Any) -> Any:
    strengths = 2 * np.sqrt(rows.shape[1]) * unit(rows)
    return unit(strengths / (1 + np.abs(strengths)))


def close(a: Any, b: Any) -> bool:
    # Evening magnifies the rounding of small features.
    return bool(np.abs(a - b).max() <= 2e-3 * max(np.abs(b).max(), 1e-6))


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in QUICK else pytest.mark.backbones)
        for name in sorted(BACKBONES)
    ],
)
def test_every_backbone_scales_pixels_as_its_reference_and_trains_saves_loads_and_predicts_the_same(
    name: str, tmp_path: Path
) -> None:
    net = shaken(original(name))
    path = tmp_path / "net.weights.h5"
    net.save_weights(path)
    size = (side(name), side(name))
    model = build_backbone(name, size, 3, weights=path)
    pixels = pictures(name)
    expected = pooled(net, reference_scaling(name, pixels))
    if not name.startswith("efficientnetb"):  # those have a test of their own
        assert close(features(model, pixels), expected)
    folded = fold_normalization(model)
    assert np.allclose(model(pixels), folded(pixels), atol=1e-3)
    check_network(json.loads(folded.to_json()), name)
    freeze(
        model, None
    )  # as a trainer does; normalised by two pictures, gradients of random layers would explode
    model.compile(
        import_keras().optimizers.SGD(1e-4, global_clipnorm=1.0), "sparse_categorical_crossentropy"
    )
    assert np.isfinite(model.train_on_batch(pixels, np.array([0, 1])))
    predictor = fc.Predictor(
        fold_normalization(model), ["a", "b", "c"], fc.Preprocessing(image_size=size)
    )
    predictor.save(tmp_path / "model.keras")
    before = predictor.predict_proba(pixels)
    assert np.isfinite(before).all()
    assert np.allclose(
        fc.Predictor.load(tmp_path / "model.keras").predict_proba(pixels), before, atol=1e-6
    )
    stock = import_keras().saving.load_model(tmp_path / "model.keras")
    assert np.allclose(stock(pixels), before, atol=1e-5)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in QUICK else pytest.mark.backbones)
        for name in sorted(BACKBONES)
    ],
)
def test_the_table_is_what_keras_downloads(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from keras.src.utils import file_utils

    asked: list[Any] = []

    def note(fname: str, origin: str, **options: Any) -> str:
        asked.append((fname, origin, options.get("file_hash") or ""))
        raise LookupError

    monkeypatch.setattr(file_utils, "get_file", note)
    spec = BACKBONES[name]
    function = getattr(import_keras().applications, spec.function)
    length = 331 if name == "nasnetlarge" else 224  # the only size this one has weights for
    with pytest.raises(LookupError):
        function(weights="imagenet", include_top=False, input_shape=(length, length, 3))
    file, origin, checksum = asked[-1]
    assert (file, origin) == (spec.file, f"https://storage.googleapis.com/{spec.url}")
    assert spec.checksum.partition(":")[2] == checksum


def test_the_table_has_every_network_of_keras() -> None:
    applications = import_keras().applications
    functions = [
        name for name in dir(applications) if inspect.isfunction(getattr(applications, name))
    ]
    assert sorted(BACKBONES) == sorted(name.lower() for name in functions)
    assert {f"backbone:{name}" for name in BACKBONES} <= set(fc.list_models())


def as_older_format(net: Any, path: Path) -> None:
    """Write weights as Keras 2 did, as the official files are."""
    from keras.src.legacy.saving import legacy_h5_format

    with h5py.File(path, "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, net)


def test_the_first_efficientnets_normalise_as_keras_does_with_the_official_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from keras.src.utils import file_utils

    net = shaken(original("efficientnetb0"))
    layer = next(layer for layer in net.layers if layer.name.startswith("normalization"))
    mean, variance = np.array([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]], dtype=np.float32)
    layer.set_weights([mean, variance, np.array(0)])
    path = tmp_path / "official.h5"
    as_older_format(net, path)
    monkeypatch.setattr(file_utils, "get_file", lambda *_, **__: str(path))
    function = import_keras().applications.EfficientNetB0
    reference = function(weights="imagenet", include_top=False, input_shape=(32, 32, 3))
    pixels = pictures("efficientnetb0")
    ours = build_backbone("efficientnetb0", (32, 32), 2, weights=path)
    assert close(features(ours, pixels), pooled(reference, pixels))


def test_the_statistics_in_a_file_of_weights_are_those_pixels_are_normalised_by(
    tmp_path: Path,
) -> None:
    net = original("efficientnetb0")
    layer = next(layer for layer in net.layers if layer.name.startswith("normalization"))
    for variance in (0.2, 1.0):
        layer.set_weights([np.full(3, 0.4), np.full(3, variance), np.array(0)])
        net.save_weights(tmp_path / "net.weights.h5")
        ours = build_backbone("efficientnetb0", (32, 32), 2, weights=tmp_path / "net.weights.h5")
        used = next(layer for layer in ours.layers if type(layer).__name__ == "Normalization")
        assert np.allclose(used.mean, 0.4)
        assert np.allclose(np.ravel(used.variance), used.get_weights()[1])


def test_the_older_format_is_read_too(tmp_path: Path) -> None:
    net = shaken(original("mobilenet"))
    as_older_format(net, tmp_path / "net.h5")
    model = build_backbone("mobilenet", (32, 32), 2, weights=tmp_path / "net.h5")
    pixels = pictures("mobilenet")
    assert close(features(model, pixels), pooled(net, reference_scaling("mobilenet", pixels)))


@pytest.mark.parametrize("older", [False, True])
def test_a_file_of_the_first_layers_gives_the_network_up_to_there(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, *, older: bool
) -> None:
    net = shaken(original("mobilenet"))
    part = import_keras().Model(net.input, net.get_layer("conv_pw_11_relu").output)
    path = tmp_path / "part.weights.h5"
    as_older_format(part, path) if older else part.save_weights(path)
    with caplog.at_level(logging.WARNING):
        model = build_backbone("mobilenet", (32, 32), 2, weights=path)
    assert "up to 'conv_pw_11_relu' only" in caplog.text
    pixels = pictures("mobilenet")
    assert close(features(model, pixels), pooled(part, reference_scaling("mobilenet", pixels)))


def test_layers_beyond_the_end_of_a_file_of_weights_are_not_used(tmp_path: Path) -> None:
    net = original("mobilenet")
    path = tmp_path / "part.weights.h5"
    import_keras().Model(net.input, net.get_layer("conv_pw_11_relu").output).save_weights(path)
    with pytest.raises(fc.ConfigurationError, match="ends at 'conv_pw_11_relu'.*'conv_pw_13_relu'"):
        build_backbone("mobilenet", (32, 32), 2, weights=path, until="conv_pw_13_relu")
    for until, features in (("conv_pw_11_relu", 512), ("conv_pw_3_relu", 128)):
        model = build_backbone("mobilenet", (32, 32), 2, weights=path, until=until)
        assert head_of(model).input.shape[1] == features


def test_weights_that_do_not_fit_or_are_not_safe_are_refused(tmp_path: Path) -> None:
    def build(path: Path) -> Any:
        return build_backbone("mobilenet", (32, 32), 2, weights=path)

    with pytest.raises(fc.ModelFileError, match="no such file"):
        build(tmp_path / "absent.h5")
    (tmp_path / "text.h5").write_text("no weights")
    with pytest.raises(fc.ModelFileError, match="not a file of weights"):
        build(tmp_path / "text.h5")
    other = original("mobilenetv3small")
    other.save_weights(tmp_path / "other.weights.h5")
    with pytest.raises(fc.ModelFileError, match="of another network"):
        build(tmp_path / "other.weights.h5")
    net = original("mobilenet")
    net.save_weights(tmp_path / "net.weights.h5")
    with h5py.File(tmp_path / "net.weights.h5", "a") as file:
        file["layers/more"] = h5py.ExternalLink("/etc/passwd", "/")
    with pytest.raises(fc.ModelFileError, match="link to another place"):
        build(tmp_path / "net.weights.h5")
    net.get_layer("conv1").set_weights([np.full((3, 3, 3, 32), np.nan, np.float32)])
    net.save_weights(tmp_path / "nan.weights.h5")
    with pytest.raises(fc.ModelFileError, match="not finite"):
        build(tmp_path / "nan.weights.h5")


class Silent(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name in the standard library
        pass

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        if wanted is None:
            return super().do_GET()
        rest = Path(self.translate_path(self.path)).read_bytes()[
            int(wanted.removeprefix("bytes=").rstrip("-")) :
        ]
        self.send_response(206)
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        self.wfile.write(rest)
        return None


def serve(folder: Path) -> ThreadingHTTPServer:
    server = ThreadingHTTPServer(
        ("127.0.0.1", 0), lambda *arguments: Silent(*arguments, directory=str(folder))
    )
    Thread(target=server.serve_forever, daemon=True).start()
    return server


def test_weights_are_downloaded_once_and_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = shaken(original("mobilenet"))
    spec = BACKBONES["mobilenet"]
    served = tmp_path / "server" / spec.url
    served.parent.mkdir(parents=True)
    as_older_format(net, served)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    server = serve(tmp_path / "server")
    mirror = f"http://127.0.0.1:{server.server_port}"
    try:
        path = fetch_weights(spec, mirror=mirror, progress=False)
        assert path == tmp_path / "keras" / "models" / spec.file
        wrong = tmp_path / "server" / BACKBONES["vgg16"].url
        wrong.parent.mkdir(parents=True)
        wrong.write_bytes(b"something else")
        with pytest.raises(fc.SourceError, match="not the official file"):
            fetch_weights(BACKBONES["vgg16"], mirror=mirror, progress=False)
        assert not (path.parent / BACKBONES["vgg16"].file).exists()
    finally:
        server.shutdown()
        server.server_close()
    model = build_backbone(
        "mobilenet", (32, 32), 2, mirror=mirror
    )  # from the cache: the server is gone
    pixels = pictures("mobilenet")
    assert close(features(model, pixels), pooled(net, reference_scaling("mobilenet", pixels)))


def test_a_page_in_place_of_weights_is_not_kept_and_one_that_was_is_to_be_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = BACKBONES["mobilenet"]
    assert not spec.checksum
    served, target = tmp_path / "server" / spec.url, tmp_path / "keras" / "models" / spec.file
    served.parent.mkdir(parents=True)
    served.write_text("<html>Log in first</html>")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    server = serve(tmp_path / "server")
    try:
        with pytest.raises(fc.SourceError, match="not the official file"):
            fetch_weights(spec, mirror=f"http://127.0.0.1:{server.server_port}", progress=False)
    finally:
        server.shutdown()
        server.server_close()
    assert not target.exists()
    target.write_text("<html>Log in first</html>")
    with pytest.raises(fc.SourceError, match="Remove it"):
        fetch_weights(spec)
    with pytest.raises(fc.ModelFileError, match="Remove it"):
        build_backbone("mobilenet", (32, 32), 2, weights=target)


@pytest.mark.parametrize("left", [b"\x89HDF", b"of another file"])
def test_a_download_goes_on_where_it_was_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: bytes
) -> None:
    with h5py.File(tmp_path / "official.h5", "w") as file:
        file.create_group("layers")
    content = (tmp_path / "official.h5").read_bytes()
    spec = dataclasses.replace(
        BACKBONES["vgg16"], checksum=f"sha256:{hashlib.sha256(content).hexdigest()}"
    )
    served, models = tmp_path / "server" / spec.url, tmp_path / "keras" / "models"
    served.parent.mkdir(parents=True)
    served.write_bytes(content)
    models.mkdir(parents=True)
    (models / f"{spec.file}.part").write_bytes(left)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    server = serve(tmp_path / "server")
    try:
        path = fetch_weights(
            spec, mirror=f"http://me:secret@127.0.0.1:{server.server_port}", progress=False
        )
    finally:
        server.shutdown()
        server.server_close()
    assert path.read_bytes() == content
    assert [file.name for file in models.iterdir()] == [spec.file]


def test_without_a_network_the_error_says_which_file_to_put_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    spec = BACKBONES["resnet50"]
    with pytest.raises(fc.SourceError, match="by hand") as caught:
        fc.build_model(
            "backbone:resnet50",
            image_size=(32, 32),
            num_classes=2,
            mirror="http://me:secret@127.0.0.1:9",
        )
    assert "secret" not in str(caught.value)
    assert spec.url in str(caught.value)
    assert f"put {spec.file} from http" in str(caught.value)
    assert f"into {tmp_path / 'models'} by hand" in str(caught.value)
    (tmp_path / "models").mkdir(exist_ok=True)
    (tmp_path / "models" / spec.file).write_bytes(b"cut off")
    with pytest.raises(fc.SourceError, match="not the official file"):
        fetch_weights(spec)
    assert weights_module.keras_cache() == tmp_path / "models"


@pytest.mark.parametrize("scaling", ["none", "tf", "torch", "caffe"])
def test_a_network_of_ones_own_is_scaled_as_asked_and_loses_its_classifier(scaling: Any) -> None:
    keras = import_keras()
    pixels = keras.Input((32, 32, 3), name="pixels")
    x = keras.layers.Conv2D(4, 3, name="features")(pixels)
    x = keras.layers.GlobalAveragePooling2D()(x)
    net = keras.Model(pixels, keras.layers.Dense(9, activation="softmax", name="probabilities")(x))
    model = build_backbone("own", (32, 32), 2, backbone=net, scaling=scaling)
    inputs = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)).astype(np.float32)
    wanted = (
        inputs
        if scaling == "none"
        else keras.applications.imagenet_utils.preprocess_input(inputs.copy(), mode=scaling)
    )
    assert close(features(model, inputs), evened(np.asarray(keras.Model(pixels, x)(wanted))))
    assert model.output_shape == (None, 2)


@pytest.mark.parametrize(
    "end", ["layer", "activation", "operation", "convolution", "convolution with softmax"]
)
def test_a_classifier_goes_whatever_its_softmax_is(end: str) -> None:
    keras = import_keras()
    layers = keras.layers
    pixels = keras.Input((32, 32, 3))
    seen = layers.GlobalAveragePooling2D(keepdims=end.startswith("conv"))(
        layers.Conv2D(4, 3)(pixels)
    )
    outputs = {
        "layer": lambda: layers.Softmax()(layers.Dense(9)(seen)),
        "activation": lambda: layers.Activation("softmax")(layers.Dense(9)(seen)),
        "operation": lambda: keras.ops.softmax(layers.Dense(9)(seen)),
        "convolution": lambda: layers.Activation("softmax")(
            layers.Reshape((9,))(layers.Conv2D(9, 1)(seen))
        ),
        "convolution with softmax": lambda: layers.Flatten()(
            layers.Conv2D(9, 1, activation="softmax")(seen)
        ),
    }[end]()
    model = build_backbone("own", (32, 32), 2, backbone=keras.Model(pixels, outputs))
    assert head_of(model).input.shape == (None, 4)


def test_a_network_that_still_ends_in_probabilities_is_refused() -> None:
    keras = import_keras()
    layers = keras.layers
    pixels = keras.Input((32, 32, 3))
    inner = keras.Sequential(
        [pixels, layers.Conv2D(4, 3), layers.GlobalAveragePooling2D(), layers.Dense(9, "softmax")]
    )
    net = keras.Model(pixels, inner(layers.Rescaling(1 / 255, name="first")(pixels)))
    with pytest.raises(fc.ConfigurationError, match="ends in probabilities.*until="):
        build_backbone("own", (32, 32), 2, backbone=net)
    assert head_of(build_backbone("own", (32, 32), 2, backbone=net, until="first")).input.shape == (
        None,
        3,
    )


@pytest.mark.parametrize(
    ("made_for", "kind"), [((24, 24, 3), "Flatten"), ((32, 32, 1), "GlobalMaxPooling2D")]
)
def test_a_network_for_other_pictures_is_refused_with_its_own_size(
    made_for: Any, kind: str
) -> None:
    layers = import_keras().layers
    end = [layers.Conv2D(2, 3), getattr(layers, kind)(), layers.Dense(4, activation="relu")]
    net = import_keras().Sequential([import_keras().Input(made_for), *end])
    with pytest.raises(
        fc.ConfigurationError, match=rf"image_size=\(32, 32\).*made for \({made_for[0]}, "
    ):
        build_backbone("own", (32, 32), 2, backbone=net)


def test_wrong_options_are_named() -> None:
    def build(name: str = "backbone:mobilenet", **options: Any) -> Any:
        return fc.build_model(name, image_size=(32, 32), num_classes=2, **options)

    with pytest.raises(fc.UnknownNameError, match="Did you mean 'backbone:mobilenetv2'"):
        build("backbone:mobilnetv2")
    with pytest.raises(fc.UnknownNameError, match="weights"):
        build(weight=None)
    with pytest.raises(fc.ConfigurationError, match="weights must be"):
        build(weights=3)
    with pytest.raises(fc.ConfigurationError, match="mirror must begin"):
        build(mirror="ftp://example.org")
    with pytest.raises(fc.ConfigurationError, match="needs a Keras model"):
        build("backbone:own")
    with pytest.raises(fc.ConfigurationError, match="backbone must be a built Keras model"):
        build(backbone="mobilenet")
    with pytest.raises(fc.ConfigurationError, match="scaling must be"):
        build(weights=None, scaling="bgr")
    for dropout in (2, -1, "x", True, None, float("nan")):
        with pytest.raises(fc.ConfigurationError, match="dropout must be"):
            build(weights=None, dropout=dropout)
    with pytest.raises(fc.UnknownNameError, match="conv_pw_12_relu"):
        build(weights=None, until="conv_pw12_relu")
    with pytest.raises(fc.ConfigurationError, match="at least 75 x 75"):
        build("backbone:InceptionV3", weights=None)


def test_names_of_backbones_are_the_same_in_any_case() -> None:
    model = fc.build_model(
        "backbone:MobileNet",
        image_size=(32, 32),
        num_classes=2,
        weights=None,
        until="conv_pw_2_relu",
    )
    assert model.name == "mobilenet"
    assert head_of(model).input.shape[1] == 128

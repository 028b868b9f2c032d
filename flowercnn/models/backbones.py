"""Pretrained networks as classifiers: pixels 0-255 in, probabilities out, stock layers only.

The networks are those of ``keras.applications``. What each wants done to pixels is put into the model, and its few
layers that are not among Keras's stock layers are replaced by stock ones that compute the same.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any, Final, get_args

import numpy as np

from flowercnn._utils import check_choice, check_share
from flowercnn.errors import ConfigurationError
from flowercnn.models.backbone_table import BACKBONES, BackboneSpec, Scaling
from flowercnn.models.backend import import_keras
from flowercnn.models.checks import check_backbone, check_smallest_size, check_weights_option
from flowercnn.models.copies import renew_constants, set_weights
from flowercnn.models.graph import inputs_of, operation_of
from flowercnn.models.hub import HUB, load_hub_backbone, load_hub_scaling
from flowercnn.models.weights import fetch_weights, keras_cache, read_weights

__all__ = ["PREFIX", "backbone_builders", "build_backbone", "find_weights", "is_backbone", "scale_pixels"]

PREFIX: Final = "backbone:"
OWN: Final = "own"
"""``backbone:own`` is a network the user hands over."""

_REPLACED: Final = ("LayerScale", "CustomScaleLayer", "Sequential")
_OURS: Final = ("pixels", "scale", "to_bgr", "pool", "unit", "spread", "bend", "features", "dropout", "probabilities")
_BETWEEN: Final = ("Reshape", "Flatten", "GlobalAveragePooling2D", "Dropout")  # a classifier and its softmax
_BEND: Final = 2.0  # a feature of mean strength becomes 2/3, the strongest at most 1
_DEVIATION: Final = np.array([0.229, 0.224, 0.225])  # of ImageNet's RGB, 0-1
_MEAN: Final = np.array([0.485, 0.456, 0.406])
_CAFFE_MEAN: Final = (123.68, 116.779, 103.939)  # RGB, 0-255
_IMAGE_DIMENSIONS: Final = 4


def is_backbone(model: Any) -> bool:
    """Return whether a model's name is that of a backbone."""
    return isinstance(model, str) and model.lower().startswith(PREFIX)


def backbone_builders() -> dict[str, tuple[Any, int]]:
    """Return the builder and the side of the pictures of every backbone, by full name."""
    named = {PREFIX + name: (partial(build_backbone, name), spec.side) for name, spec in BACKBONES.items()}
    return named | {PREFIX + OWN: (partial(build_backbone, OWN), 224)}


def find_weights(name: str, weights: Any = "imagenet") -> Path | None:
    """Return the file of weights that is at hand for a backbone without a download, or ``None``."""
    if isinstance(weights, (str, os.PathLike)) and weights != "imagenet":
        return Path(weights)
    spec = BACKBONES.get(name.lower().removeprefix(PREFIX))
    path = None if spec is None else keras_cache() / spec.file
    return path if path is not None and path.is_file() else None


def build_backbone(  # noqa: PLR0913 - each is an option of its own
    name: str,
    image_size: tuple[int, int],
    num_classes: int,
    *,
    weights: str | os.PathLike[str] | None = "imagenet",
    backbone: Any = None,
    scaling: Scaling | None = None,
    until: str | None = None,
    dropout: float = 0.0,
    mirror: str | None = None,
    progress: bool = True,
) -> Any:
    """Return a pretrained network, global average pooling to evened vectors of length 1, and a new softmax layer.

    Args:
        name: Of a network of ``keras.applications`` in lower case, ``"own"``, or ``"hub:"`` and a preset of KerasHub.
        image_size: (height, width).
        num_classes: At least 2.
        weights: ``"imagenet"``: the official ones, downloaded once; a path: a local ``.weights.h5`` or ``.h5``
            file, of the first layers at least; ``None``: random ones.
        backbone: A Keras model to use instead, with its weights; it is copied. A softmax layer at its end goes.
        scaling: What ``backbone`` wants pixels to be: ``"none"`` (0-255), ``"tf"`` (-1 to 1), ``"torch"`` or
            ``"caffe"``. By default what the network ``name`` wants, for ``"own"`` ``"none"``.
        until: The layer whose output is used; by default the last.
        dropout: Share of features dropped before the last layer while fine-tuning.
        mirror: Another server of the official weights, with the same folders.
        progress: Whether a download shows a progress bar.

    Returns:
        A Keras model from (n, height, width, 3) pixels 0-255 to (n, num_classes) probabilities.

    Raises:
        ConfigurationError: If an option is wrong or pictures are too small.
        ModelFileError: If the local file does not fit.
        SourceError: If the official weights or the preset cannot be had.
        MissingDependencyError: If KerasHub is needed and not installed.
    """
    keras = import_keras()
    layers = keras.layers
    check_weights_option(weights)
    dropout = check_share("dropout", dropout)
    if scaling is not None:
        check_choice("scaling", scaling, get_args(Scaling))
    net, output, usual = _network(
        name, image_size, weights, backbone=backbone, scaling=scaling, mirror=mirror, progress=progress
    )
    if until is not None:
        output = _output_of(net, until, output)
    elif output is None:
        output = _without_classifier(net)
    pixels = keras.Input((*image_size, 3), name="pixels")
    try:
        x = _in_stock_layers(keras.Model(net.inputs, output, name=net.name), pixels, usual)
    except ValueError as error:
        if backbone is None:
            raise
        raise ConfigurationError(
            f"backbone cannot take pictures of image_size={image_size} with 3 channels; it was made for "
            f"{tuple(net.inputs[0].shape[1:])}. Give that as image_size. ({error})"
        ) from error
    if len(x.shape) == _IMAGE_DIMENSIONS:
        x = layers.GlobalAveragePooling2D(name="pool")(x)
    x = _evened(x)
    if dropout:
        x = layers.Dropout(dropout, name="dropout")(x)
    probabilities = layers.Dense(num_classes, activation="softmax", name="probabilities")(x)
    return keras.Model(pixels, probabilities, name=net.name if name.startswith(HUB) else name)


def _evened(x: Any) -> Any:
    """Return vectors of length 1, in which a few strong features do not drown the rest.

    Contrast says little about what is seen, so lengths go; then each feature is bent as power normalisation bends it
    (Perronnin et al. 2010), by softsign, which is a stock layer. With MobileNet, 1,088 flowers were told
    apart in cross-validation by 97.3 % in place of 96.0 %.
    """
    layers = import_keras().layers
    x = layers.UnitNormalization(name="unit")(x)
    x = layers.Rescaling(_BEND * float(np.sqrt(x.shape[-1])), name="spread")(x)
    x = layers.Activation("softsign", name="bend")(x)
    return layers.UnitNormalization(name="features")(x)


def scale_pixels(pixels: Any, scaling: Scaling | tuple[Any, Any]) -> Any:
    """Return what a network wants, made of pixels 0-255 by stock layers.

    Args:
        pixels: A Keras tensor.
        scaling: In Keras's words, or what pixels are multiplied by and what is added then.
    """
    layers = import_keras().layers
    if isinstance(scaling, tuple):
        return layers.Rescaling(scaling[0], offset=scaling[1], name="scale")(pixels)
    if scaling == "none":
        return pixels
    if scaling == "tf":
        return layers.Rescaling(1 / 127.5, offset=-1.0, name="scale")(pixels)
    if scaling == "torch":
        return layers.Rescaling((1 / 255 / _DEVIATION).tolist(), offset=(-_MEAN / _DEVIATION).tolist(), name="scale")(
            pixels
        )
    centred = layers.Rescaling(1.0, offset=[-mean for mean in _CAFFE_MEAN], name="scale")(pixels)
    reverse = layers.Conv2D(3, 1, use_bias=False, trainable=False, name="to_bgr")  # red and blue change places
    reversed_pixels = reverse(centred)
    reverse.set_weights([np.eye(3, dtype=np.float32)[::-1].reshape(1, 1, 3, 3)])
    return reversed_pixels


def _network(
    name: str,
    image_size: tuple[int, int],
    weights: str | os.PathLike[str] | None,
    *,
    backbone: Any,
    scaling: Scaling | None,
    mirror: str | None,
    progress: bool,
) -> tuple[Any, Any, Any]:
    """Return the network, its output (``None``: before its classifier) and what it wants pixels to be."""
    spec = BACKBONES.get(name)
    if backbone is not None:
        check_backbone(backbone)
        return backbone, None, scaling or (spec.scaling if spec is not None else "none")
    if name.startswith(HUB):
        preset = name.removeprefix(HUB)
        net = load_hub_backbone(preset, pretrained=weights is not None)
        return net, None, scaling or load_hub_scaling(preset)
    if spec is None:
        raise ConfigurationError("backbone:own needs a Keras model: model_options={'backbone': model}.")
    check_smallest_size(PREFIX + name, image_size, spec.smallest)
    return *_of_keras(spec, image_size, weights, mirror=mirror, progress=progress), scaling or spec.scaling


def _of_keras(
    spec: BackboneSpec,
    image_size: tuple[int, int],
    weights: str | os.PathLike[str] | None,
    *,
    mirror: str | None,
    progress: bool,
) -> tuple[Any, Any]:
    """Return a network of Keras with its weights, and its output."""
    function = getattr(import_keras().applications, spec.function)
    net = function(weights=None, include_top=False, input_shape=(*image_size, 3))
    if weights is None:
        return net, net.output
    path = fetch_weights(spec, mirror=mirror, progress=progress) if weights == "imagenet" else Path(weights)
    output = read_weights(net, path)
    renew_constants(net)
    _mend_efficientnet(net)
    return net, output


def _mend_efficientnet(net: Any) -> None:
    """Let the first EfficientNets normalise as they were trained.

    Their files hold a variance that is a deviation. Keras divides by its root once more if, and only if, it has
    loaded the official file itself.
    """
    for layer in net.layers:
        if net.name.startswith("efficientnetb") and type(layer).__name__ == "Normalization":
            mean, variance, *count = layer.get_weights()
            if not np.allclose(variance, 1):
                set_weights(layer, [mean, variance * _DEVIATION.astype(np.float32), *count])


def _without_classifier(net: Any) -> Any:
    """The output of a user's network, that of the layer before a softmax classifier at its end."""
    output = net.outputs[0]
    last, inputs = _made_by(output)
    if _is_softmax(last):
        if not hasattr(last, "kernel"):  # a softmax of its own: the classifier goes into it
            last, inputs = _made_by(inputs[0])
        if type(last).__name__ not in ("Dense", "Conv2D"):
            raise ConfigurationError(
                f"backbone ends in probabilities, which no dense layer or convolution makes but {last.name!r}. Say "
                "which layer's output is used: until='its name', or give the network without its classifier."
            )
        output = inputs[0]
    if len(output.shape) not in (2, _IMAGE_DIMENSIONS):
        raise ConfigurationError(
            f"backbone must return (n, features) or (n, height, width, features). Received: {tuple(output.shape)}"
        )
    return output


def _made_by(tensor: Any) -> tuple[Any, list[Any]]:
    """Return the operation whose output a tensor is, but for changes of its shape, and the inputs of that."""
    operation, inputs = operation_of(tensor), inputs_of(tensor)
    return _made_by(inputs[0]) if type(operation).__name__ in _BETWEEN else (operation, inputs)


def _is_softmax(operation: Any) -> bool:
    """Return whether an operation returns probabilities: a layer, or a model within the model that ends in one."""
    if hasattr(operation, "layers"):
        return _is_softmax(_made_by(operation.outputs[0])[0])
    activation = getattr(operation, "activation", None)
    return type(operation).__name__ == "Softmax" or activation is import_keras().activations.softmax


def _output_of(net: Any, until: str, end: Any) -> Any:
    """Return the output of a layer, one of those ``end`` is made by where the file of weights has no more."""
    from flowercnn.errors import UnknownNameError, closest

    names = [layer.name for layer in net.layers]
    if until not in names:
        raise UnknownNameError(f"until must be a layer of {net.name}.{closest(until, names)} Received: {until!r}")
    if end is not None:
        filled = import_keras().Model(net.inputs, end)
        if until not in [layer.name for layer in filled.layers]:
            last = operation_of(end).name
            raise ConfigurationError(
                f"until must be a layer that the file of weights reaches, which ends at {last!r}; beyond it weights "
                f"would be random. Received: {until!r}. Leave until out, or give a file with weights of all layers."
            )
    return net.get_layer(until).output


def _in_stock_layers(net: Any, pixels: Any, scaling: Scaling | tuple[Any, Any]) -> Any:
    """Return the output of a copy of a network on scaled ``pixels``, its weights copied, made of stock layers."""
    keras = import_keras()
    scaled = scale_pixels(pixels, scaling)
    copies: dict[str, Any] = {}

    def copy(operation: Any) -> Any:
        if not isinstance(operation, keras.Layer) or type(operation).__name__ in _REPLACED:
            return operation
        if operation.name not in copies:
            config = operation.get_config()
            if config["name"] in _OURS:
                config["name"] += "_"
            copies[operation.name] = type(operation).from_config(config)
        return copies[operation.name]

    def call(operation: Any, *args: Any, **kwargs: Any) -> Any:
        args = tuple(scaled if value is pixels else value for value in args)
        if type(operation).__name__ == "Sequential":  # of ConvNeXt; a flat network is simpler, and can be folded
            for layer in operation.layers:
                args = (copy(layer)(args[0]),)
            return args[0]
        return _call_stock(operation, *args, **kwargs)

    # A bare view: cloning asks for the same structure of inputs, and a compiled model would compile the copy.
    view = keras.Model(net.inputs[0], net.outputs[0], name=net.name)
    output = keras.models.clone_model(view, input_tensors=pixels, clone_function=copy, call_function=call).outputs[0]
    _copy_weights(view, copies)
    return output


def _copy_weights(view: Any, copies: dict[str, Any]) -> None:
    """Copy weights layer by layer; factors per channel go into the layer before."""
    inner = [
        part
        for layer in view.layers
        for part in ([layer] if layer.name in copies else getattr(layer, "layers", []))  # a model was copied whole
    ]
    for layer in inner:
        if layer.weights and layer.name in copies:
            set_weights(copies[layer.name], layer.get_weights())
    for layer in view.layers:
        if type(layer).__name__ == "LayerScale":
            before = copies[operation_of(layer.input).name]
            before.set_weights([weight * np.asarray(layer.gamma) for weight in before.get_weights()])


def _call_stock(operation: Any, *args: Any, **kwargs: Any) -> Any:
    """Return what an operation computes, computed by stock layers."""
    keras = import_keras()
    kind = type(operation).__name__
    if kind == "LayerScale":  # of ConvNeXt: a factor per channel, folded into the weights of the layer before
        return args[0]
    if kind == "CustomScaleLayer":  # of Inception-ResNet
        return keras.layers.Add()([args[0][0], keras.layers.Rescaling(operation.scale)(args[0][1])])
    if isinstance(operation, keras.Layer) or kind not in ("Add", "Multiply"):
        return operation(*args, **kwargs)
    tensor, other = args
    if not isinstance(other, (int, float)):  # in ConvNeXt
        return getattr(keras.layers, kind)()([tensor, other])
    # In MobileNetV3.
    by_number = (
        keras.layers.Rescaling(1.0, offset=float(other)) if kind == "Add" else keras.layers.Rescaling(float(other))
    )
    return by_number(tensor)

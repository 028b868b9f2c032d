"""Pretrained networks as classifiers: pixels 0-255 in, probabilities out, stock layers only.

The networks are those of ``keras.applications``. Each one's preprocessing becomes part of the
model, and its few custom layers are replaced by stock layers that compute the same.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final, get_args

import numpy as np

from flowercnn._utils import check_choice, check_share
from flowercnn.errors import ConfigurationError, UnknownNameError, closest
from flowercnn.models.backbone_table import BACKBONES, BackboneSpec, Scaling
from flowercnn.models.backend import import_keras
from flowercnn.models.checks import check_backbone, check_smallest_size, check_weights_option
from flowercnn.models.copies import renew_constants, set_weights
from flowercnn.models.graph import inputs_of, operation_of
from flowercnn.models.hub import HUB, load_hub_backbone, load_hub_scaling
from flowercnn.models.weights import fetch_weights, keras_cache, read_weights

PREFIX: Final = "backbone:"
OWN: Final = "own"
"""``backbone:own`` is a network the user provides."""

_REPLACED: Final = ("LayerScale", "CustomScaleLayer", "Sequential")
_EVENED: Final = ("unit", "spread", "bend", "features")  # layers of `_evened`
_OURS: Final = ("pixels", "scale", "to_bgr", "pool", *_EVENED, "dropout", "probabilities")
_BETWEEN: Final = ("Reshape", "Flatten", "GlobalAveragePooling2D", "Dropout")  # before a softmax
_BEND: Final = 2.0  # a feature of mean strength becomes 2/3, the strongest at most 1
_DEVIATION: Final = np.array([0.229, 0.224, 0.225])  # of ImageNet's RGB, 0-1
_MEAN: Final = np.array([0.485, 0.456, 0.406])
_CAFFE_OFFSET: Final = [-123.68, -116.779, -103.939]  # minus ImageNet's mean, RGB, 0-255
_IMAGE_DIMENSIONS: Final = 4


def is_backbone(model: Any) -> bool:
    """Return whether a model's name is that of a backbone."""
    return isinstance(model, str) and model.lower().startswith(PREFIX)


def backbone_builders() -> dict[str, tuple[Any, int]]:
    """Return the builder and the image side of every backbone, by full name."""
    sides = {name: spec.side for name, spec in BACKBONES.items()} | {OWN: 224}
    return {PREFIX + name: (partial(build_backbone, name), side) for name, side in sides.items()}


def find_weights(name: str, weights: Any = "imagenet") -> Path | None:
    """Return a backbone's local file of weights, or ``None`` if a download is needed."""
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
    """Return a pretrained network, average pooling to unit feature vectors, and a new softmax head.

    Args:
        name: A network of ``keras.applications`` in lower case, ``"own"``, or ``"hub:"`` and a
            preset of KerasHub.
        image_size: (height, width).
        num_classes: At least 2.
        weights: ``"imagenet"``: the official ones, downloaded once; a path: a local
            ``.weights.h5`` or ``.h5`` file, of the first layers at least; ``None``: random ones.
        backbone: A Keras model to use instead, with its weights; it is copied, without a softmax
            classifier at its end.
        scaling: Pixels that ``backbone`` needs: ``"none"`` (0-255), ``"tf"`` (-1 to 1), ``"torch"``
            or ``"caffe"``. By default those of the network ``name``, for ``"own"`` ``"none"``.
        until: The layer whose output is used; by default the last.
        dropout: Share of features dropped before the last layer while fine-tuning.
        mirror: Another server of the official weights, with the same folders.
        progress: Whether a download shows a progress bar.

    Returns:
        A Keras model from (n, height, width, 3) pixels 0-255 to (n, num_classes) probabilities.

    Raises:
        ConfigurationError: If an option is wrong or images are too small.
        ModelFileError: If the local file does not fit.
        SourceError: If the official weights or the preset cannot be obtained.
        MissingDependencyError: If KerasHub is needed and not installed.
    """
    keras = import_keras()
    layers = keras.layers
    check_weights_option(weights)
    dropout = check_share("dropout", dropout)
    if scaling is not None:
        check_choice("scaling", scaling, get_args(Scaling))
    fetch = partial(fetch_weights, mirror=mirror, progress=progress)
    net, output = _network(name, image_size, weights, backbone, fetch)
    if until is not None:
        output = _output_of(net, until, output)
    elif output is None:
        output = _without_classifier(net)
    pixels = keras.Input((*image_size, 3), name="pixels")
    try:
        view = keras.Model(net.inputs, output, name=net.name)
        x = _in_stock_layers(view, pixels, scaling or _usual_scaling(name, backbone))
    except ValueError as error:
        if backbone is None:
            raise
        raise ConfigurationError(
            f"backbone cannot take images of image_size={image_size} with 3 channels; it was made "
            f"for {tuple(net.inputs[0].shape[1:])}. Give that as image_size. ({error})"
        ) from error
    if len(x.shape) == _IMAGE_DIMENSIONS:
        x = layers.GlobalAveragePooling2D(name="pool")(x)
    x = _evened(x)
    if dropout:
        x = layers.Dropout(dropout, name="dropout")(x)
    probabilities = layers.Dense(num_classes, activation="softmax", name="probabilities")(x)
    return keras.Model(pixels, probabilities, name=net.name if name.startswith(HUB) else name)


def _evened(x: Any) -> Any:
    """Return unit vectors in which a few strong features do not dominate.

    Lengths, which mostly reflect contrast, are dropped; then softsign, a stock layer, acts as power
    normalisation (Perronnin et al. 2010). With MobileNet, cross-validated accuracy on 1,088 flowers
    rose from 96.0 % to 97.3 %.
    """
    layers = import_keras().layers
    x = layers.UnitNormalization(name="unit")(x)
    x = layers.Rescaling(_BEND * float(np.sqrt(x.shape[-1])), name="spread")(x)
    x = layers.Activation("softsign", name="bend")(x)
    return layers.UnitNormalization(name="features")(x)


def scale_pixels(pixels: Any, scaling: Scaling | tuple[Any, Any]) -> Any:
    """Return pixels 0-255 scaled for a network, by stock layers.

    Args:
        pixels: A Keras tensor.
        scaling: In Keras's words, or a factor and an offset.
    """
    layers = import_keras().layers
    if scaling == "none":
        return pixels
    if scaling == "tf":
        scaling = (1 / 127.5, -1.0)
    elif scaling == "torch":
        scaling = ((1 / 255 / _DEVIATION).tolist(), (-_MEAN / _DEVIATION).tolist())
    elif scaling == "caffe":
        centred = layers.Rescaling(1.0, offset=_CAFFE_OFFSET, name="scale")(pixels)
        swap = layers.Conv2D(3, 1, use_bias=False, trainable=False, name="to_bgr")
        bgr = swap(centred)
        swap.set_weights([np.eye(3, dtype=np.float32)[::-1].reshape(1, 1, 3, 3)])
        return bgr
    return layers.Rescaling(scaling[0], offset=scaling[1], name="scale")(pixels)


def _network(
    name: str,
    image_size: tuple[int, int],
    weights: Any,
    backbone: Any,
    fetch: Callable[[BackboneSpec], Path],
) -> tuple[Any, Any]:
    """Return the network and its output, ``None`` for that before its classifier."""
    if backbone is not None:
        check_backbone(backbone)
        return backbone, None
    if name.startswith(HUB):
        return load_hub_backbone(name.removeprefix(HUB), pretrained=weights is not None), None
    if name not in BACKBONES:
        example = "model_options={'backbone': model}"
        raise ConfigurationError(f"backbone:own needs a Keras model: {example}.")
    spec = BACKBONES[name]
    check_smallest_size(PREFIX + name, image_size, spec.smallest)
    function = getattr(import_keras().applications, spec.function)
    net = function(weights=None, include_top=False, input_shape=(*image_size, 3))
    if weights is None:
        return net, net.output
    output = read_weights(net, fetch(spec) if weights == "imagenet" else Path(weights))
    renew_constants(net)
    _mend_efficientnet(net)
    return net, output


def _usual_scaling(name: str, backbone: Any) -> Scaling | tuple[Any, Any]:
    if backbone is None and name.startswith(HUB):
        return load_hub_scaling(name.removeprefix(HUB))
    return BACKBONES[name].scaling if name in BACKBONES else "none"


def _mend_efficientnet(net: Any) -> None:
    """Make the first EfficientNets normalise as they did in their training.

    Their files hold a deviation as variance. Keras divides by its root once more only if it has
    loaded the official file itself.
    """
    for layer in net.layers:
        if net.name.startswith("efficientnetb") and type(layer).__name__ == "Normalization":
            mean, variance, *count = layer.get_weights()
            if not np.allclose(variance, 1):
                set_weights(layer, [mean, variance * _DEVIATION.astype(np.float32), *count])


def _without_classifier(net: Any) -> Any:
    """Output of a user's network, or the input of the softmax classifier at its end."""
    output = net.outputs[0]
    last, inputs = _made_by(output)
    if _is_softmax(last):
        if not hasattr(last, "kernel"):  # a separate softmax: the classifier is before it
            last, inputs = _made_by(inputs[0])
        if type(last).__name__ not in ("Dense", "Conv2D"):
            raise ConfigurationError(
                f"backbone ends in probabilities made by {last.name!r}, neither a dense layer nor a"
                " convolution. Name the layer whose output is used: until='its name', or give the "
                "network without its classifier."
            )
        output = inputs[0]
    if len(output.shape) not in (2, _IMAGE_DIMENSIONS):
        raise ConfigurationError(
            "backbone must return (n, features) or (n, height, width, features). "
            f"Received: {tuple(output.shape)}"
        )
    return output


def _made_by(tensor: Any) -> tuple[Any, list[Any]]:
    """Operation that made a tensor, apart from changes of shape, and its inputs."""
    operation = operation_of(tensor)
    inputs = inputs_of(tensor)
    return _made_by(inputs[0]) if type(operation).__name__ in _BETWEEN else (operation, inputs)


def _is_softmax(operation: Any) -> bool:
    """Whether an operation returns probabilities: a layer, or an inner model that ends in one."""
    if hasattr(operation, "layers"):
        return _is_softmax(_made_by(operation.outputs[0])[0])
    activation = getattr(operation, "activation", None)
    return type(operation).__name__ == "Softmax" or activation is import_keras().activations.softmax


def _output_of(net: Any, until: str, end: Any) -> Any:
    """Output of a layer, which must come before ``end``, the last tensor with weights."""
    names = [layer.name for layer in net.layers]
    if until not in names:
        raise UnknownNameError(
            f"until must be a layer of {net.name}.{closest(until, names)} Received: {until!r}"
        )
    if end is not None:
        filled = import_keras().Model(net.inputs, end)
        if until not in [layer.name for layer in filled.layers]:
            raise ConfigurationError(
                "until must be a layer that the file of weights reaches, which ends at "
                f"{operation_of(end).name!r}; later weights would be random. Received: {until!r}. "
                "Omit until, or give a file with weights of all layers."
            )
    return net.get_layer(until).output


def _in_stock_layers(net: Any, pixels: Any, scaling: Scaling | tuple[Any, Any]) -> Any:
    """Output of a copy of a network, weights included, on scaled ``pixels``, in stock layers."""
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
        if type(operation).__name__ == "Sequential":  # of ConvNeXt; a flat network can be folded
            for layer in operation.layers:
                args = (copy(layer)(args[0]),)
            return args[0]
        return _call_stock(operation, *args, **kwargs)

    # A bare view has the inputs' structure cloning needs, and is not compiled.
    view = keras.Model(net.inputs[0], net.outputs[0], name=net.name)
    clone_model = keras.models.clone_model
    clone = clone_model(view, input_tensors=pixels, clone_function=copy, call_function=call)
    _copy_weights(view, copies)
    return clone.outputs[0]


def _copy_weights(view: Any, copies: dict[str, Any]) -> None:
    """Copy weights layer by layer; factors per channel are folded into the layer before."""
    for layer in view.layers:  # the layers of a Sequential were copied one by one
        for part in [layer] if layer.name in copies else getattr(layer, "layers", []):
            if part.weights and part.name in copies:
                set_weights(copies[part.name], part.get_weights())
    for layer in view.layers:
        if type(layer).__name__ == "LayerScale":
            before = copies[operation_of(layer.input).name]
            gamma = np.asarray(layer.gamma)
            before.set_weights([weight * gamma for weight in before.get_weights()])


def _call_stock(operation: Any, *args: Any, **kwargs: Any) -> Any:
    """Result of an operation, computed by stock layers."""
    keras = import_keras()
    layers = keras.layers
    kind = type(operation).__name__
    if kind == "LayerScale":  # of ConvNeXt: folded into the weights of the layer before
        return args[0]
    if kind == "CustomScaleLayer":  # of Inception-ResNet
        return layers.Add()([args[0][0], layers.Rescaling(operation.scale)(args[0][1])])
    if isinstance(operation, keras.Layer) or kind not in ("Add", "Multiply"):
        return operation(*args, **kwargs)
    tensor, other = args
    if not isinstance(other, (int, float)):  # in ConvNeXt
        return getattr(layers, kind)()([tensor, other])
    scale, offset = (1.0, float(other)) if kind == "Add" else (float(other), 0.0)
    return layers.Rescaling(scale, offset=offset)(tensor)  # in MobileNetV3

"""Pretrained networks of KerasHub, by the name of a preset or its folder (extra ``kerashub``)."""

from __future__ import annotations

from typing import Any, Final

from flowercnn.errors import ConfigurationError, MissingDependencyError, SourceError, few

HUB: Final = "hub:"


def load_hub_backbone(preset: str, *, pretrained: bool) -> Any:
    """Return a KerasHub network without its classifier.

    Args:
        preset: A KerasHub name, such as ``"resnet_18_imagenet"``, or the folder of a saved preset.
        pretrained: Whether to load its weights.

    Raises:
        MissingDependencyError: If KerasHub is not installed.
        SourceError: If it cannot load the preset.
        ConfigurationError: If the network has layers that are not Keras's own.
    """
    hub = _import_hub()
    try:
        net = hub.models.Backbone.from_preset(preset, load_weights=pretrained, dtype="float32")
    except Exception as error:  # whatever its downloaders raise
        raise SourceError(
            f"{preset}: KerasHub cannot load this preset ({_first_line(error)}). Offline, name the "
            "folder of a preset: backbone:hub:FOLDER."
        ) from error
    kinds = {type(layer) for layer in net.layers}
    foreign = {kind.__name__ for kind in kinds if kind.__module__.split(".")[0] != "keras"}
    if foreign:
        raise ConfigurationError(
            f"{preset}: has layers of KerasHub's own ({few(sorted(foreign))}), which a model file "
            "cannot hold. Its ResNet, VGG and DenseNet presets have stock layers only."
        )
    return net


def load_hub_scaling(preset: str) -> tuple[Any, Any]:
    """Return the scale and the offset of a preset for pixels 0-255: numbers, or one per channel.

    Raises:
        MissingDependencyError: If KerasHub is not installed.
        SourceError: If the preset does not define them.
    """
    hub = _import_hub()
    try:
        converter = hub.layers.ImageConverter.from_preset(preset)
    except Exception as error:  # whatever its downloaders raise
        raise SourceError(
            f"{preset}: does not say how it wants pixels ({_first_line(error)}). Give "
            'model_options={"scaling": ...}.'
        ) from error
    scale = 1.0 if converter.scale is None else converter.scale
    return scale, 0.0 if converter.offset is None else converter.offset


def _import_hub() -> Any:
    try:
        import keras_hub
    except ImportError as error:
        raise MissingDependencyError(
            "backbone:hub:... needs KerasHub: pip install 'flowercnn[kerashub]'"
        ) from error
    return keras_hub


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"

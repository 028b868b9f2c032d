"""What a model file may hold: Keras's own layers with sensible sizes, and weights in the file itself."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any, Final

from flowercnn.errors import ModelFileError

__all__ = ["check_network", "check_weights"]

_LAYERS: Final = frozenset(
    [
        *("Activation", "Add", "Average", "AveragePooling2D", "BatchNormalization", "CenterCrop", "Concatenate"),
        *("Conv2D", "Cropping2D", "Dense", "DepthwiseConv2D", "Dropout", "ELU", "Flatten", "Functional"),
        *("GaussianDropout", "GaussianNoise", "GlobalAveragePooling2D", "GlobalMaxPooling2D", "GroupNormalization"),
        *("InputLayer", "LayerNormalization", "LeakyReLU", "MaxPooling2D", "Maximum", "Minimum", "Multiply"),
        *("Normalization", "PReLU", "Permute", "ReLU", "Rescaling", "Reshape", "Resizing", "SeparableConv2D"),
        *("Sequential", "Softmax", "SpatialDropout2D", "Subtract", "UnitNormalization", "UpSampling2D"),
        "ZeroPadding2D",
    ]
)
_MODULES: Final = (
    "keras.layers",
    "keras.initializers",
    "keras.regularizers",
    "keras.constraints",
    "keras.src.models.functional",
    "keras.src.models.sequential",
    "keras.models",
    "keras",
)
_LARGEST_INT: Final = 2**32  # seeds; sizes are bounded below
_LARGEST_SIZE: Final = 2**16
_SIZES: Final = frozenset(
    {"units", "filters", "kernel_size", "pool_size", "size", "target_shape", "padding", "depth_multiplier"}
)
_MOST_NODES: Final = 200_000


def check_network(config: Any, name: str) -> None:
    """Refuse a network description with anything in it but Keras's own layers.

    Args:
        config: ``config.json`` of a ``.keras`` file, or ``model_config`` of an ``.h5`` file, parsed.
        name: Of the file, for messages.

    Raises:
        ModelFileError: If it names another layer or module, or sizes no picture network has.
    """
    if not isinstance(config, dict) or config.get("class_name") not in ("Functional", "Sequential"):
        raise ModelFileError(f"{name}: refused: the network must be a functional or sequential Keras model.")
    nodes = 0
    waiting: list[Any] = [config]
    while waiting:
        node = waiting.pop()
        nodes += 1
        if nodes > _MOST_NODES:
            raise ModelFileError(f"{name}: refused: the network description has over {_MOST_NODES:,} parts.")
        if isinstance(node, dict):
            _check_object(node, name)
            waiting.extend(node.values())
        elif isinstance(node, list):
            waiting.extend(node)
        elif isinstance(node, int) and abs(node) > _LARGEST_INT:
            raise ModelFileError(f"{name}: refused: the number {node} is beyond any size or seed.")


def _check_object(node: dict[str, Any], name: str) -> None:
    module, class_name = node.get("module"), node.get("class_name")
    if module is not None and module not in _MODULES:
        raise ModelFileError(
            f"{name}: refused: it refers to {module}.{class_name}, which is not one of Keras's layers."
        )
    is_layer = module in ("keras.layers", None) and isinstance(node.get("config"), dict) and class_name is not None
    if is_layer and class_name not in _LAYERS and class_name not in ("DTypePolicy", "__tensor__", "__keras_tensor__"):
        raise ModelFileError(f"{name}: refused: the layer {class_name!r} is not one that classifiers are made of.")
    registered = node.get("registered_name")
    if isinstance(registered, str) and registered not in ("Functional", "Sequential"):
        raise ModelFileError(f"{name}: refused: it needs the custom class {registered!r}.")
    for key in _SIZES & node.keys():
        for size in node[key] if isinstance(node[key], list) else [node[key]]:
            if isinstance(size, int) and size > _LARGEST_SIZE:
                raise ModelFileError(f"{name}: refused: {key}={size} is larger than {_LARGEST_SIZE}.")


def check_weights(file: Path | io.BytesIO, name: str) -> None:
    """Refuse HDF5 files whose data lie elsewhere or whose shapes claim more than the file holds.

    Args:
        file: An HDF5 file.
        name: For messages.

    Raises:
        ModelFileError: If it has links out of itself, virtual or external data, or arrays larger than the file.
    """
    import h5py

    with h5py.File(file, "r") as weights:
        groups = [weights]
        while groups:
            group = groups.pop()
            for key in group:
                link = group.get(key, getlink=True)
                if not isinstance(link, h5py.HardLink):
                    raise ModelFileError(f"{name}: refused: the weights link to another place ({key!r}).")
                item = group[key]
                if isinstance(item, h5py.Group):
                    groups.append(item)
                elif item.external or item.is_virtual:
                    raise ModelFileError(f"{name}: refused: the weights of {key!r} lie in another file.")
                elif item.chunks is None and item.id.get_storage_size() < math.prod(item.shape) * item.dtype.itemsize:
                    raise ModelFileError(f"{name}: refused: {key!r} claims more data than the file holds.")

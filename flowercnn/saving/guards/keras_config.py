"""Checks of a network's configuration: Keras's own layers with sensible sizes, and nothing more.

Nothing here needs TensorFlow, and nothing in the file has been used when it is refused.
"""

from __future__ import annotations

from typing import Any, Final

from flowercnn.errors import ModelFileError
from flowercnn.models import LAYER_NAME

__all__ = ["check_network"]

_LAYERS: Final = frozenset(
    [
        *("Activation", "ActivityRegularization", "Add", "AlphaDropout", "Average", "AveragePooling2D"),
        *("BatchNormalization", "CenterCrop", "Concatenate", "Conv2D", "Conv2DTranspose", "Cropping2D", "Dense"),
        *("DepthwiseConv2D", "Dropout", "ELU", "Flatten", "Functional", "GaussianDropout", "GaussianNoise"),
        *("GlobalAveragePooling1D", "GlobalAveragePooling2D", "GlobalMaxPooling1D", "GlobalMaxPooling2D"),
        *("GroupNormalization", "Identity", "InputLayer", "LayerNormalization", "LeakyReLU", "MaxPooling2D"),
        *("Maximum", "Minimum", "Multiply", "Normalization", "PReLU", "Permute", "RMSNormalization", "ReLU"),
        *("Rescaling", "Reshape", "Resizing", "SeparableConv2D", "Sequential", "Softmax", "SpatialDropout2D"),
        *("Subtract", "UnitNormalization", "UpSampling2D", "ZeroPadding2D"),
    ]
)
_STOCK: Final[dict[str | None, frozenset[str] | set[str]]] = {
    "keras": {"DTypePolicy", "Sequential"},
    "keras.layers": _LAYERS,
    "keras.models": {"Functional", "Sequential"},
    "keras.src.models.functional": {"Functional"},
    "keras.src.models.sequential": {"Sequential"},
    "keras.initializers": {
        *("Constant", "GlorotNormal", "GlorotUniform", "HeNormal", "HeUniform", "LecunNormal", "LecunUniform"),
        *("Ones", "Orthogonal", "OrthogonalInitializer", "RandomNormal", "RandomUniform", "TruncatedNormal"),
        *("VarianceScaling", "Zeros"),
    },
    "keras.regularizers": {"L1", "L1L2", "L2", "OrthogonalRegularizer"},
    "keras.constraints": {"MaxNorm", "MinMaxNorm", "NonNeg", "UnitNorm"},
}
_STOCK[None] = frozenset().union(*_STOCK.values(), {"__keras_tensor__", "__tuple__"})
"""By module; ``.h5`` files name none, and Keras writes two of its own where it says what a layer's input is."""

_ACTIVATIONS: Final = frozenset(
    [
        *("celu", "elu", "exponential", "gelu", "hard_shrink", "hard_sigmoid", "hard_silu", "hard_swish"),
        *("hard_tanh", "leaky_relu", "linear", "log_sigmoid", "log_softmax", "mish", "relu", "relu6", "selu"),
        *("sigmoid", "silu", "soft_shrink", "softmax", "softplus", "softsign", "sparse_plus", "sparse_sigmoid"),
        *("squareplus", "swish", "tanh", "tanh_shrink"),
    ]
)
_DTYPES: Final = frozenset(
    [*("float16", "float32", "bfloat16", "mixed_float16", "mixed_bfloat16"), *("uint8", "int32", "int64", "bool")]
)
_LARGEST_INT: Final = 2**32  # seeds; sizes are bounded below
_LARGEST_ADDRESS: Final = 2**64
_LARGEST_SIZE: Final = 2**16
_SMALLEST_SIZES: Final = {"target_shape": -1}  # whatever is left; 0 for all others
_SIZES: Final = frozenset(
    [
        *("units", "filters", "kernel_size", "pool_size", "size", "target_shape", "padding", "output_padding"),
        *("depth_multiplier", "strides"),
    ]
)
_LIST: Final = "it is in docs/how-to/model-files.md."
_MOST_NODES: Final = 200_000
_LONGEST_TEXT: Final = 1_000


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
    if not isinstance(config.get("config"), dict):
        received = type(config.get("config")).__name__
        raise ModelFileError(f"{name}: refused: the network has no description of its layers, but {received}.")
    nodes = 0
    waiting: list[Any] = [config]
    while waiting:
        node = waiting.pop()
        nodes += 1
        if nodes > _MOST_NODES:
            raise ModelFileError(f"{name}: refused: the network description has over {_MOST_NODES:,} parts.")
        if isinstance(node, dict):
            _check_object(node, name)
            for key, value in node.items():
                _check_value(key, value, name)
            waiting.extend(value for key, value in node.items() if not _is_address(key, value))
        elif isinstance(node, list):
            waiting.extend(node)
        elif isinstance(node, int) and abs(node) > _LARGEST_INT:
            raise ModelFileError(f"{name}: refused: the number {node} is beyond any size or seed.")
        elif isinstance(node, str) and len(node) > _LONGEST_TEXT:
            raise ModelFileError(f"{name}: refused: a text of {len(node):,} characters in the network description.")


def _is_address(key: str, value: Any) -> bool:
    """Keras tells by its address in memory that an object is the same as one before; nothing is as large as that."""
    return key == "shared_object_id" and isinstance(value, int) and 0 <= value <= _LARGEST_ADDRESS


def _check_object(node: dict[str, Any], name: str) -> None:
    """An object that Keras would make something of must be one of Keras's own."""
    if not node.keys() & {"class_name", "module"}:
        return
    module, class_name = node.get("module"), node.get("class_name")
    known = module is None or isinstance(module, str)
    if not known or not isinstance(class_name, str) or class_name not in _STOCK.get(module, ()):
        raise ModelFileError(f"{name}: refused: {_what(module, class_name)}")
    registered = node.get("registered_name")
    if registered is not None and not (registered == class_name and class_name in ("Functional", "Sequential")):
        raise ModelFileError(f"{name}: refused: it needs the custom class {registered!r}.")


def _what(module: Any, class_name: Any) -> str:
    """Say what is not on the list, and where that is."""
    if class_name in ("__numpy__", "__tensor__"):
        return (
            "an array in the description of the network, as Constant(array) leaves it. Give the initializer a number "
            "and set the weights themselves, with set_weights."
        )
    if module == "keras.layers":
        return f"the layer {str(class_name)[:100]!r} is not on the list of those that model files may hold; {_LIST}"
    return f"it refers to {module}.{class_name}, which is not on the list of what model files may hold; {_LIST}"


def _check_value(key: str, value: Any, name: str) -> None:
    if key in _SIZES:
        for size in _flat(value):
            if isinstance(size, (int, float)) and size > _LARGEST_SIZE:
                raise ModelFileError(f"{name}: refused: {key}={size} is larger than {_LARGEST_SIZE}.")
            if isinstance(size, (int, float)) and size < _SMALLEST_SIZES.get(key, 0):
                raise ModelFileError(f"{name}: refused: {key}={size} is below {_SMALLEST_SIZES.get(key, 0)}.")
    elif key == "activation" and value is not None and (not isinstance(value, str) or value not in _ACTIVATIONS):
        raise ModelFileError(
            f"{name}: refused: the activation {str(value)[:100]!r} is not on the list of those that model files may "
            f"hold; {_LIST}"
        )
    elif key == "activity_regularizer" and "orthogonal" in str(value).lower():
        # Of activations it makes a square matrix as wide as they are.
        raise ModelFileError(f"{name}: refused: OrthogonalRegularizer is for weights, not for activations.")
    elif key == "dtype" and isinstance(value, str) and value not in _DTYPES:
        raise ModelFileError(f"{name}: refused: the number type {value[:100]!r} is not one that networks compute in.")
    elif key == "name" and value is not None and not (isinstance(value, str) and LAYER_NAME.fullmatch(value)):
        # It may become a path inside the weights.
        raise ModelFileError(f"{name}: refused: {str(value)[:100]!r} cannot be the name of a layer.")


def _flat(value: Any) -> list[Any]:
    if not isinstance(value, list):
        return [value]
    return [inner for item in value for inner in (item if isinstance(item, list) else [item])]

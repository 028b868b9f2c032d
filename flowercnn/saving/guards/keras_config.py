"""Checks of a network's configuration: Keras's own layers, sensible sizes, and the memory it takes.

Nothing is built and TensorFlow is not imported before `check_network` has accepted a file.
"""

from __future__ import annotations

import json
import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeAlias

from flowercnn.errors import ModelFileError
from flowercnn.models import (
    LAYER_NAME,
    MOST_ACTIVATION_BYTES,
    activation_bytes,
    call_count,
    import_keras,
)

__all__ = ["check_memory", "check_network"]

_LAYERS: Final = frozenset(
    """
    Activation ActivityRegularization Add AlphaDropout Average AveragePooling2D BatchNormalization
    CenterCrop Concatenate Conv2D Conv2DTranspose Cropping2D Dense DepthwiseConv2D Dropout ELU
    Flatten Functional GaussianDropout GaussianNoise GlobalAveragePooling1D GlobalAveragePooling2D
    GlobalMaxPooling1D GlobalMaxPooling2D GroupNormalization Identity InputLayer LayerNormalization
    LeakyReLU MaxPooling2D Maximum Minimum Multiply Normalization PReLU Permute RMSNormalization
    ReLU Rescaling Reshape Resizing SeparableConv2D Sequential Softmax SpatialDropout2D Subtract
    UnitNormalization UpSampling2D ZeroPadding2D
    """.split()  # noqa: SIM905 - as a list it takes a line a name
)
_INITIALIZERS: Final = frozenset(
    """
    Constant GlorotNormal GlorotUniform HeNormal HeUniform LecunNormal LecunUniform Ones Orthogonal
    OrthogonalInitializer RandomNormal RandomUniform TruncatedNormal VarianceScaling Zeros
    """.split()  # noqa: SIM905 - as above
)
_STOCK: Final[dict[str | None, frozenset[str] | set[str]]] = {
    "keras": {"DTypePolicy", "Sequential"},
    "keras.layers": _LAYERS,
    "keras.models": {"Functional", "Sequential"},
    "keras.src.models.functional": {"Functional"},
    "keras.src.models.sequential": {"Sequential"},
    "keras.initializers": _INITIALIZERS,
    "keras.regularizers": {"L1", "L1L2", "L2", "OrthogonalRegularizer"},
    "keras.constraints": {"MaxNorm", "MinMaxNorm", "NonNeg", "UnitNorm"},
}
# ``.h5`` files name no module, and Keras describes the inputs of layers by two names of its own.
_STOCK[None] = frozenset().union(*_STOCK.values(), {"__keras_tensor__", "__tuple__"})

_ACTIVATIONS: Final = frozenset(
    """
    celu elu exponential gelu hard_shrink hard_sigmoid hard_silu hard_swish hard_tanh leaky_relu
    linear log_sigmoid log_softmax mish relu relu6 selu sigmoid silu soft_shrink softmax softplus
    softsign sparse_plus sparse_sigmoid squareplus swish tanh tanh_shrink
    """.split()  # noqa: SIM905 - as above
)
_DTYPES: Final = frozenset(
    """
    float16 float32 bfloat16 mixed_float16 mixed_bfloat16 uint8 int32 int64 bool
    """.split()  # noqa: SIM905 - as above
)
_SIZES: Final = frozenset(
    """
    units filters kernel_size pool_size size target_shape padding output_padding depth_multiplier
    strides
    """.split()  # noqa: SIM905 - as above
)
_SMALLEST_SIZES: Final = {"target_shape": -1}  # -1 is the remaining size; all others are at least 0
_LARGEST_INT: Final = 2**32  # of seeds
_LARGEST_ADDRESS: Final = 2**64
_LARGEST_SIZE: Final = 2**16
_LIST: Final = "not on the list of what model files may hold; it is in docs/how-to/model-files.md."
_MOST_NODES: Final = 200_000
_MOST_CALLS: Final = 10_000  # of layers; `accurate` makes 79
_LONGEST_TEXT: Final = 1_000

Shapes: TypeAlias = list[tuple[int, ...]]


def check_network(config: Any, name: str) -> None:
    """Reject a network description with anything in it but Keras's own layers.

    Args:
        config: ``config.json`` of a ``.keras`` file or ``model_config`` of an ``.h5`` file, parsed.
        name: Of the file, for messages.

    Raises:
        ModelFileError: If it names another layer or module, or sizes no image network has.
    """
    try:
        _check_network(config)
    except _NetworkError as error:
        raise ModelFileError(f"{name}: rejected: {error}") from None


class _NetworkError(Exception):
    """Says why a description is rejected, without the name of the file."""


def _check_network(config: Any) -> None:
    if not isinstance(config, dict) or config.get("class_name") not in ("Functional", "Sequential"):
        raise _NetworkError("the network must be a functional or sequential Keras model.")
    if not isinstance(config.get("config"), dict):
        received = type(config.get("config")).__name__
        raise _NetworkError(f"the network has no description of its layers, but {received}.")
    nodes = 0
    waiting: list[Any] = [config]
    while waiting:
        node = waiting.pop()
        nodes += 1
        if nodes > _MOST_NODES:
            raise _NetworkError(f"the network description has over {_MOST_NODES:,} parts.")
        if isinstance(node, dict):
            _check_object(node)
            for key, value in node.items():
                _check_value(key, value)
            waiting.extend(value for key, value in node.items() if not _is_address(key, value))
        elif isinstance(node, list):
            waiting.extend(node)
        elif isinstance(node, int) and abs(node) > _LARGEST_INT:
            raise _NetworkError(f"the number {node} is beyond any size or seed.")
        elif isinstance(node, str) and len(node) > _LONGEST_TEXT:
            raise _NetworkError(f"a text of {len(node):,} characters in the network description.")


def _is_address(key: str, value: Any) -> bool:
    """Return whether this is an address in memory, by which Keras marks objects that are shared."""
    return key == "shared_object_id" and isinstance(value, int) and 0 <= value <= _LARGEST_ADDRESS


def _check_object(node: dict[str, Any]) -> None:
    """Check that an object Keras would build is one of Keras's own."""
    if not node.keys() & {"class_name", "module"}:
        return
    module, class_name = node.get("module"), node.get("class_name")
    known = module is None or isinstance(module, str)
    if not known or not isinstance(class_name, str) or class_name not in _STOCK.get(module, ()):
        raise _NetworkError(_not_listed(module, class_name))
    registered = node.get("registered_name")
    is_model = registered == class_name and class_name in ("Functional", "Sequential")
    if registered is not None and not is_model:
        raise _NetworkError(f"it needs the custom class {registered!r}.")


def _not_listed(module: Any, class_name: Any) -> str:
    if class_name in ("__numpy__", "__tensor__"):
        return (
            "an array in the description of the network, as Constant(array) leaves it. Give the "
            "initializer a number and set the weights themselves, with set_weights."
        )
    if module == "keras.layers":
        return f"the layer {str(class_name)[:100]!r} is {_LIST}"
    return f"it refers to {module}.{class_name}, which is {_LIST}"


def _check_value(key: str, value: Any) -> None:
    text = value if isinstance(value, str) else ""
    if key in _SIZES:
        _check_sizes(key, value)
    elif key == "activation" and value is not None and text not in _ACTIVATIONS:
        raise _NetworkError(f"the activation {str(value)[:100]!r} is {_LIST}")
    elif key == "activity_regularizer" and "orthogonal" in str(value).lower():
        # Of activations it makes a square matrix as wide as they are.
        raise _NetworkError("OrthogonalRegularizer is for weights, not for activations.")
    elif key == "dtype" and isinstance(value, str) and value not in _DTYPES:
        raise _NetworkError(f"the dtype {value[:100]!r} is not one that networks compute in.")
    elif key == "name" and value is not None and not LAYER_NAME.fullmatch(text):
        # It may become a path inside the weights.
        raise _NetworkError(f"{str(value)[:100]!r} cannot be the name of a layer.")


def _check_sizes(key: str, value: Any) -> None:
    least = _SMALLEST_SIZES.get(key, 0)
    for item in value if isinstance(value, list) else [value]:
        for size in item if isinstance(item, list) else [item]:
            if isinstance(size, (int, float)) and size > _LARGEST_SIZE:
                raise _NetworkError(f"{key}={size} is larger than {_LARGEST_SIZE}.")
            if isinstance(size, (int, float)) and size < least:
                raise _NetworkError(f"{key}={size} is below {least}.")


def check_memory(config: bytes, stored: Shapes, name: str, *, exact: bool) -> None:
    """Reject a network whose weights are not those in the file, or that needs too much memory.

    Args:
        config: The network as Keras describes it, JSON.
        stored: The shapes of the arrays in the file, sorted.
        name: Of the file, for messages.
        exact: Whether the arrays must be the weights of the network and nothing more.

    Raises:
        ModelFileError: If it is rejected.
    """
    # A thread of its own: Keras remembers per thread the variables it did not create, and would
    # create them later.
    with ThreadPoolExecutor(1) as thread:
        needed, with_seeds, activations, calls = thread.submit(_sizes, config).result()
    parameters = sum(math.prod(shape) for shape in needed)
    reason = ""
    # Whether the states of random generators are stored depends on the version of Keras.
    if exact and stored not in (needed, with_seeds):
        reason = "the weights in the file are not those of the network."
    elif parameters > sum(math.prod(shape) for shape in stored):
        reason = f"the network needs {parameters:,} weights, more than the file holds."
    elif calls > _MOST_CALLS:
        reason = f"the network calls its layers {calls:,} times."
    elif activations > MOST_ACTIVATION_BYTES:
        reason = f"a single image would need {activations:,} bytes of memory."
    if reason:
        raise ModelFileError(f"{name}: rejected: {reason}")


def _sizes(config: bytes) -> tuple[Shapes, Shapes, int, int]:
    """Return shapes of weights, those with random states, bytes of activations, calls of layers.

    Shapes are sorted; bytes and calls are those of one image. The network is built without its
    weights, so that nothing is allocated for sizes that only a description claims.
    """
    keras = import_keras()
    network = json.loads(config)
    kind = keras.Sequential if network["class_name"] == "Sequential" else keras.Model
    with keras.StatelessScope(initialize_variables=False):
        sketch = kind.from_config(network["config"])
        weights = sorted(tuple(weight.shape) for weight in sketch.weights)
        variables = sorted(tuple(variable.shape) for variable in sketch.variables)
        return weights, variables, activation_bytes(sketch), call_count(sketch)

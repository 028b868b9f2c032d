"""Registry of networks: those of the library and those users register."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from flowercnn._utils import check_count, check_instance
from flowercnn.errors import ConfigurationError, UnknownNameError, closest
from flowercnn.models.backbones import PREFIX, backbone_builders, build_backbone, is_backbone
from flowercnn.models.backend import seeded_weights
from flowercnn.models.checks import check_probabilities, check_shapes
from flowercnn.models.hub import HUB
from flowercnn.models.networks import build_accurate, build_article, build_fast
from flowercnn.models.recipe import Recipe
from flowercnn.preprocessing import Augmentation, Mixing, Preprocessing

Builder = Callable[..., Any]
"""A function ``(image_size, num_classes, **options)`` that returns a Keras model."""


@dataclass(frozen=True, slots=True)
class _Entry:
    builder: Builder
    recipe: Recipe
    is_foreign: bool = False  # registered by the user, so its models are checked


_ARTICLE: Final = Recipe(
    image_size=(128, 128), resize="stretch", epochs=20, batch_size=128, learning_rate=5e-4
)
_FAST: Final = Recipe(
    image_size=(96, 96),
    epochs=54,
    batch_size=32,
    optimizer="muon",
    learning_rate=0.02,
    schedule="cosine",
    warmup=0.15,
    weight_decay=0.05,
    label_smoothing=0.1,
    augmentation=Augmentation(min_area=0.25),
    mixing=Mixing(mixup=0.2),
    average=0.995,
    progressive=((0, 5 / 6),),  # random crops enlarge objects (Touvron et al. 2019)
    adapt=True,
)
_ACCURATE: Final = _FAST.replace(image_size=(128, 128), epochs=50, progressive=((0, 0.75),))

# The only global state: names are global by nature, as in Keras and in entry points.
_REGISTRY: dict[str, _Entry] = {
    "article": _Entry(build_article, _ARTICLE),
    "fast": _Entry(build_fast, _FAST),
    "accurate": _Entry(build_accurate, _ACCURATE),
}


def _backbone_recipe(side: int) -> Recipe:
    side = max(side, 288)  # small images work best a little larger (Touvron et al. 2019)
    return Recipe(
        image_size=(side, side),
        epochs=15,
        batch_size=64,
        optimizer="adamw",
        learning_rate=1e-4,
        schedule="cosine",
        warmup=0.1,
        augmentation=Augmentation(min_area=0.5, rotate=10.0),
    )


_REGISTRY |= {
    name: _Entry(builder, _backbone_recipe(side))
    for name, (builder, side) in backbone_builders().items()
}


def list_models() -> list[str]:
    """Return the names `build_model` and `Trainer` know, sorted.

    Example:
        >>> {"article", "fast"} <= set(list_models())
        True
    """
    return sorted(_REGISTRY)


def recipe_of(name: str) -> Recipe:
    """Return the recipe of a registered model.

    Raises:
        UnknownNameError: If ``name`` is not registered.
    """
    return _entry(name).recipe


def register_model(
    name: str, builder: Builder, *, recipe: Recipe | None = None, overwrite: bool = False
) -> None:
    """Register a network by a name for `build_model`, `Trainer`, `train` and the command line.

    Args:
        name: The name; letters, digits, ``-``, ``_`` and ``.``.
        builder: A function ``(image_size, num_classes, **options)`` that returns a Keras model from
            (n, height, width, 3) pixels 0-255 to (n, num_classes) probabilities. Rescaling is
            part of the model.
        recipe: Its training settings; by default `Recipe()`.
        overwrite: Whether to replace a registered network of that name.

    Raises:
        ConfigurationError: If the name is malformed or taken, ``builder`` is not a function, or
            ``recipe`` not a `Recipe`.

    Example:
        >>> def tiny(image_size, num_classes):
        ...     import keras
        ...     return keras.Sequential([
        ...         keras.Input((*image_size, 3)),
        ...         keras.layers.Rescaling(1 / 255),
        ...         keras.layers.Conv2D(8, 3, activation="relu"),
        ...         keras.layers.GlobalAveragePooling2D(),
        ...         keras.layers.Dense(num_classes, activation="softmax"),
        ...     ])
        >>> register_model("tiny", tiny, overwrite=True)
        >>> build_model("tiny", image_size=(32, 32), num_classes=3).count_params()
        251
    """
    if not isinstance(name, str) or not re.sub("[-_.]", "", name).isalnum():
        raise ConfigurationError(
            f"name must be letters, digits, '-', '_' and '.'. Received: name={name!r}"
        )
    if name == "auto":
        raise ConfigurationError("name must not be 'auto': train(model='auto') tries the others.")
    is_model = hasattr(builder, "layers") and hasattr(builder, "get_weights")
    if is_model or not callable(builder):
        raise ConfigurationError(
            "builder must be a function (image_size, num_classes, **options) that returns a Keras "
            f"model; train a model itself with train(model=model). Received: builder={builder!r}"
        )
    if recipe is not None:
        check_instance("recipe", recipe, Recipe, "None stands for the default one")
    if name in _REGISTRY and not overwrite:
        raise ConfigurationError(
            f"A model named {name!r} is registered already. Pass overwrite=True to replace it."
        )
    _REGISTRY[name] = _Entry(builder, recipe or Recipe(), is_foreign=True)


def build_model(
    name: str, *, image_size: tuple[int, int], num_classes: int, seed: int = 0, **options: Any
) -> Any:
    """Return a new, untrained Keras model.

    Args:
        name: A registered name; see `list_models`.
        image_size: (height, width) in pixels.
        num_classes: At least 2.
        seed: Of the initial weights: the same seed gives the same weights.
        **options: Passed to the model's builder.

    Returns:
        A ``keras.Model`` from (n, height, width, 3) pixels 0-255, uint8 or float32, to
        (n, num_classes) float32 probabilities that sum to 1.

    Raises:
        UnknownNameError: If ``name`` is not registered.
        ConfigurationError: If an argument is wrong, or the builder does not return such a model.

    Example:
        >>> build_model("article", image_size=(500, 500), num_classes=17).count_params()
        1727969
    """
    entry = _entry(name)
    size = Preprocessing(image_size=image_size).image_size
    classes = check_count("num_classes", num_classes, least=2)
    _check_options(name, entry.builder, options)
    with seeded_weights(seed):
        model = entry.builder(size, classes, **options)
    check_shapes(model, name, size, classes)
    if entry.is_foreign:
        check_probabilities(model, name)
    return model


def _entry(name: str) -> _Entry:
    if isinstance(name, str) and name.lower().startswith(PREFIX + HUB):
        return _Entry(partial(build_backbone, name[len(PREFIX) :]), _backbone_recipe(224))
    known = name.lower() if is_backbone(name) else name
    if known not in _REGISTRY:
        short = ", ".join(listed for listed in list_models() if not listed.startswith(PREFIX))
        raise UnknownNameError(
            f"model must be one of {short} or a backbone, {PREFIX}<name>, of list_models()."
            f"{closest(name, _REGISTRY)} Received: {name!r}. "
            "Register your own with flowercnn.register_model."
        )
    return _REGISTRY[known]


def _check_options(name: str, builder: Builder, options: dict[str, Any]) -> None:
    signature = inspect.signature(builder)
    try:
        signature.bind_partial((1, 1), 2)
    except TypeError as error:
        raise ConfigurationError(
            f"{name}: its builder must take (image_size, num_classes, **options). "
            f"Received: {signature} ({error})"
        ) from error
    parameters = signature.parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    known = set(parameters) - {"image_size", "num_classes"}
    for option in options:
        if option not in known:
            raise UnknownNameError(
                f"{name} has the options {', '.join(sorted(known)) or 'none'}."
                f"{closest(option, known)} Received: {option!r}"
            )

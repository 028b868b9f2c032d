from __future__ import annotations

from typing import Any

import pytest

import flowercnn as fc
from flowercnn.models.backend import import_keras, seeded_weights
from flowercnn.models.checks import check_probabilities
from flowercnn.testing import check_model, model_problems

pytestmark = pytest.mark.versions


def network(
    *layers: Any, classes: int = 3, activation: str | None = "softmax", rescale: bool = True
) -> Any:
    keras = import_keras()
    first = [keras.layers.Rescaling(1 / 255)] if rescale else []
    last = [
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dense(classes, activation=activation),
    ]
    return keras.Sequential([keras.Input((16, 16, 3)), *first, *layers, *last])


def only_problem(model: Any, **settings: Any) -> str:
    (problem,) = model_problems(model, **settings)
    return problem


@pytest.mark.parametrize("name", ["article", "fast"])
def test_the_networks_of_the_library_keep_the_contract(name: str) -> None:
    check_model(name)


def test_a_backbone_and_a_model_object_keep_it() -> None:
    check_model(
        "backbone:mobilenet",
        options={"weights": None, "until": "conv_pw_2_relu"},
        image_size=(32, 32),
    )
    check_model(network())


def test_all_that_is_wrong_is_said_at_once_with_the_network_named() -> None:
    def mine(image_size: tuple[int, int], num_classes: int) -> Any:
        return network()

    with pytest.raises(AssertionError, match="mine does not keep the contract") as caught:
        check_model(mine, image_size=(32, 32), num_classes=5)
    assert "use the argument image_size" in str(caught.value)
    assert "use the argument num_classes" in str(caught.value)


def test_outputs_that_are_no_probabilities_are_found() -> None:
    assert "no probabilities" in only_problem(network(activation=None))
    assert "add up to" in only_problem(network(activation="sigmoid"))


def test_preprocessing_outside_is_found() -> None:
    keras = import_keras()
    strong = keras.layers.Conv2D(
        8, 3, kernel_initializer=keras.initializers.RandomNormal(stddev=3, seed=0)
    )
    assert "rescaled outside" in only_problem(network(strong, rescale=False))
    exponential = keras.layers.Activation("exponential")
    assert "NaN or infinite" in only_problem(network(exponential, rescale=False))


def small(kind: str, *first: Any) -> Any:
    keras = import_keras()
    layers = keras.layers
    body = {
        "shallow": [
            layers.Conv2D(8, 3, activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(16, "relu"),
        ],
        "deep": [
            *(
                part
                for n in (16, 32)
                for part in (layers.Conv2D(n, 3, activation="relu"), layers.MaxPooling2D())
            ),
            layers.Conv2D(64, 3, activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(64, "relu"),
        ],
        "flat": [layers.Conv2D(8, 3, activation="relu"), layers.Flatten()],
    }[kind]
    return keras.Sequential([keras.Input((32, 32, 3)), *first, *body, layers.Dense(3, "softmax")])


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", ["shallow", "deep", "flat"])
def test_preprocessing_outside_is_found_whatever_the_first_weights_are(
    kind: str, seed: int
) -> None:
    layers = import_keras().layers
    with seeded_weights(seed):
        assert "rescaled outside" in only_problem(small(kind))
        check_model(small(kind, layers.Rescaling(1 / 127.5, offset=-1)))
        check_model(small(kind, layers.Normalization(mean=[120, 110, 90], variance=[3600] * 3)))
        check_model(small(kind, layers.BatchNormalization()))


def test_a_trained_network_may_be_certain_and_keeps_its_weights() -> None:
    model = small("deep", import_keras().layers.Rescaling(1 / 255))
    kernel, bias = model.layers[-1].get_weights()
    model.layers[-1].set_weights([1e4 * kernel, bias])
    kept = model.get_weights()
    check_model(model)
    assert all((old == new).all() for old, new in zip(kept, model.get_weights(), strict=True))


def test_dependence_on_the_batch_is_found() -> None:
    keras = import_keras()

    @keras.saving.register_keras_serializable("tests")
    class Centred(keras.layers.Layer):  # type: ignore[name-defined, misc]  # Keras is untyped
        def call(self, inputs: Any) -> Any:
            return inputs - keras.ops.mean(inputs, axis=0, keepdims=True)

    problems = model_problems(network(Centred()))
    assert any("depends on the rest of its batch" in problem for problem in problems)
    assert any("not saved" in problem for problem in problems)


def test_a_network_in_float16_is_no_problem_of_sums() -> None:
    keras = import_keras()
    last = keras.layers.Dense(3, activation="softmax", dtype="float16")
    pooled = keras.layers.GlobalAveragePooling2D()
    model = keras.Sequential(
        [keras.Input((16, 16, 3)), keras.layers.Rescaling(1 / 255), pooled, last]
    )
    assert not any("add up to" in problem for problem in model_problems(model))


def test_a_layer_that_a_copy_does_not_have_everything_of_is_found() -> None:
    keras = import_keras()

    @keras.saving.register_keras_serializable("tests")
    class Forgetful(keras.layers.Layer):  # type: ignore[name-defined, misc]  # Keras is untyped
        factor = 1.0

        def call(self, inputs: Any) -> Any:
            return inputs * self.factor

    layer = Forgetful()
    layer.factor = 3.0
    assert any("A copy of it" in problem for problem in model_problems(network(layer)))


def test_chance_is_found() -> None:
    keras = import_keras()

    class Noisy(keras.layers.Layer):  # type: ignore[name-defined, misc]  # Keras is untyped
        def call(self, inputs: Any) -> Any:
            return inputs + keras.random.normal(keras.ops.shape(inputs))

    assert any(
        "other predictions each time" in problem for problem in model_problems(network(Noisy()))
    )


def test_layers_that_cannot_be_saved_are_found() -> None:
    keras = import_keras()
    assert "not saved" in only_problem(
        network(keras.layers.Lambda(lambda x: x * 2, output_shape=(16, 16, 3)))
    )


def test_names_that_tensorflow_or_model_files_refuse_are_found_wherever_they_are() -> None:
    keras = import_keras()
    convolution = keras.layers.Conv2D(4, 3, name="my conv")
    inner = keras.Sequential([keras.Input((16, 16, 3)), convolution])
    end = [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(3, activation="softmax")]
    for name, model in (
        ("my conv", network(inner)),
        ("my image", keras.Sequential([keras.Input((16, 16, 3), name="my image"), *end])),
        ("back\\slash", network(keras.layers.Conv2D(4, 3, name="back\\slash"))),
    ):
        with pytest.raises(fc.ConfigurationError, match="a layer or an input named") as caught:
            check_probabilities(model, "mine")
        assert repr(name) in str(caught.value)


def test_weights_without_influence_are_found() -> None:
    keras = import_keras()

    class Idle(keras.layers.Layer):  # type: ignore[name-defined, misc]  # Keras is untyped
        def build(self, shape: Any) -> None:
            self.idle = self.add_weight(shape=(2,), name="idle")

        def call(self, inputs: Any) -> Any:
            return inputs

    assert any("cannot learn" in problem for problem in model_problems(network(Idle())))


def test_wrong_shapes_and_kinds_are_found() -> None:
    keras = import_keras()
    pixels = keras.Input((16, 16, 3))
    assert "flatten or pool" in only_problem(
        keras.Model(pixels, keras.layers.Dense(3, activation="softmax")(pixels))
    )
    assert "Two classes are two outputs" in only_problem(network(classes=1, activation="sigmoid"))
    assert "(None, height, width, 3)" in only_problem(
        keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    )
    assert "It must be built" in only_problem(keras.Sequential([keras.layers.Dense(2)]))

    class Mine(keras.Model):  # type: ignore[name-defined, misc]  # Keras is untyped
        pass

    assert "a Mine" in only_problem(Mine())


def test_a_function_that_fails_or_returns_something_else_is_reported() -> None:
    def failing(image_size: tuple[int, int], num_classes: int) -> Any:
        raise RuntimeError("no weights")

    assert "RuntimeError: no weights" in only_problem(failing)
    assert "It returns int" in only_problem(lambda *_: 3)
    assert "Did you mean 'fast'" in only_problem("fats")


def test_the_check_leaves_the_model_as_it_was(predictor: fc.Predictor) -> None:
    before = predictor.model.get_weights()
    check_model(predictor.model)
    assert all((a == b).all() for a, b in zip(before, predictor.model.get_weights(), strict=True))

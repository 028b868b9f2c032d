"""Files that mean harm: each is rejected with a reason, and nothing happens."""

from __future__ import annotations

import io
import json
import random
import re
import struct
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import flowercnn as fc
from flowercnn.models.backend import import_keras
from flowercnn.saving.guards import keras_config as safety
from flowercnn.saving.guards.archive import PLACEHOLDER, fill_checksum
from flowercnn.saving.modelfile import read_model

GOOD = Path(__file__).parents[1] / "files" / "0.1.0.keras"
DESCRIPTION = "flowercnn.json"


def members() -> dict[str, bytes]:
    with zipfile.ZipFile(GOOD) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def sealed(target: Path, content: dict[str, bytes], **options: Any) -> Path:
    """An archive with a fitting checksum: only what is in it can be wrong."""
    with zipfile.ZipFile(target, "w", **options) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
        archive.comment = PLACEHOLDER
    fill_checksum(target)
    return target


def with_weights(target: Path, write: Callable[[h5py.File], object]) -> Path:
    """A copy of the good file whose weights were changed by ``write``."""
    content = members()
    buffer = io.BytesIO(content["model.weights.h5"])
    with h5py.File(buffer, "a") as file:
        write(file)
    return sealed(target, content | {"model.weights.h5": buffer.getvalue()})


def first_array(file: h5py.File) -> str:
    names: list[str] = []
    file.visititems(
        lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None
    )
    return names[0]


def replace_array(file: h5py.File, **options: Any) -> None:
    name = first_array(file)
    data = options.pop("data", file[name][()])
    del file[name]
    file.create_dataset(name, data=data, **options)


def test_the_good_file_is_good(tmp_path: Path) -> None:
    assert fc.Predictor.load(sealed(tmp_path / "m.keras", members()), runtime="keras").class_names


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (lambda f: f.update({"x": h5py.SoftLink("/layers")}), "link to another place"),
        (lambda f: f.update({"x": h5py.ExternalLink("/etc/passwd", "/")}), "message of kind"),
        (lambda f: f.update({"x": f["layers"]}), "used twice"),
        (lambda f: replace_array(f, chunks=True), "not in one piece|message of kind"),
        (lambda f: replace_array(f, compression="gzip"), "not in one piece|message of kind"),
        (lambda f: replace_array(f, data=[b"a", b"b"]), "holds no numbers"),
        (
            lambda f: replace_array(f, data=np.full((3, 3, 3, 4), np.nan, np.float32)),
            "NaN or infinite",
        ),
        (
            lambda f: replace_array(f, data=np.zeros((3, 3, 3, 5), np.float32)),
            "not those of the network",
        ),
        (lambda f: f.create_dataset("x", (10**12,), "f4"), "outside the file|more data"),
        (
            lambda f: f.create_dataset("x", (4,), "f4", external=[("/etc/passwd", 0, 16)]),
            "message of kind",
        ),
        (
            lambda f: f.create_virtual_dataset("x", virtual_layout()),
            "not in one piece|message of kind",
        ),
    ],
)
def test_weights_that_are_no_plain_arrays_are_refused(
    tmp_path: Path, write: Any, reason: str
) -> None:
    with pytest.raises(fc.ModelFileError, match=f"rejected.*({reason})"):
        fc.Predictor.load(with_weights(tmp_path / "evil.keras", write), runtime="keras")


def test_weights_are_looked_at_even_if_litert_computes(tmp_path: Path) -> None:
    evil = with_weights(
        tmp_path / "evil.keras", lambda f: f.update({"x": h5py.ExternalLink("/etc/passwd", "/")})
    )
    with pytest.raises(fc.ModelFileError, match="not laid out as Keras does it"):
        fc.Predictor.load(evil, runtime="litert")


def virtual_layout() -> h5py.VirtualLayout:
    layout = h5py.VirtualLayout((4,), "f4")
    layout[:] = h5py.VirtualSource("/etc/passwd", "x", (4,))
    return layout


def config_with(change: Callable[[Any], object]) -> dict[str, bytes]:
    config = json.loads(members()["config.json"])
    change(config)
    return members() | {"config.json": json.dumps(config).encode()}


def layer(config: Any, kind: str) -> Any:
    return next(each for each in config["config"]["layers"] if each["class_name"] == kind)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            lambda c: layer(c, "Dense")["config"].update(units=400_000_000),
            "units=400000000 is larger",
        ),
        (
            lambda c: layer(c, "Dense")["config"].update(units=60_000),
            "more than the file holds|not those",
        ),
        (
            lambda c: layer(c, "Conv2D")["config"].update(
                kernel_size=[60_000, 60_000], padding="same"
            ),
            "not those",
        ),
        (lambda c: layer(c, "Conv2D")["config"].update(activation="evil"), "activation 'evil'"),
        (
            lambda c: layer(c, "Conv2D")["config"].update(
                activation={"class_name": "function", "module": "builtins", "config": "exec"}
            ),
            "activation",
        ),
        (lambda c: layer(c, "ReLU").update(class_name="Lambda"), "'Lambda'"),
        (
            lambda c: layer(c, "ReLU").update(class_name="TextVectorization"),
            "'TextVectorization' is not on the list",
        ),
        (lambda c: layer(c, "ReLU").update(shared_object_id=2**64 + 1), "a number out of range"),
        (lambda c: layer(c, "ReLU")["config"].update(shared_object_id=-(2**33)), "beyond any size"),
        (
            lambda c: layer(c, "Conv2D")["config"].update(
                activity_regularizer="orthogonal_regularizer"
            ),
            "activations",
        ),
        (
            lambda c: layer(c, "ReLU")["config"].update(output_padding=70_000),
            "output_padding=70000 is larger",
        ),
        (lambda c: layer(c, "ReLU")["config"].update(name="../../evil"), "name of a layer"),
        (lambda c: layer(c, "ReLU")["config"].update(dtype="evil"), "the dtype"),
        (lambda c: layer(c, "ReLU")["config"].update(module="os"), "os"),
        (lambda c: layer(c, "ReLU").update(module=["keras.layers"]), "not on the list"),
        (lambda c: c["config"].update(name="x" * 10_000), "characters"),
        (
            lambda c: layer(c, "Dense")["config"]["kernel_initializer"].update(
                module="keras.utils", class_name="get_file"
            ),
            "get_file",
        ),
    ],
)
def test_networks_that_are_none_of_ours_are_refused(
    tmp_path: Path, change: Any, reason: str
) -> None:
    with pytest.raises(fc.ModelFileError, match=f"rejected.*({reason})"):
        fc.Predictor.load(sealed(tmp_path / "evil.keras", config_with(change)), runtime="keras")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda c: c.update(config=None), "no description of its layers, but NoneType"),
        (lambda c: layer(c, "Dense")["config"].update(units=-1), "units=-1 is below 0"),
        (
            lambda c: layer(c, "Conv2D")["config"].update(kernel_size=[3, -3]),
            "kernel_size=-3 is below 0",
        ),
    ],
)
def test_networks_of_no_size_are_refused_even_if_litert_computes(
    tmp_path: Path, change: Any, reason: str
) -> None:
    with pytest.raises(fc.ModelFileError, match=f"rejected.*{reason}"):
        fc.Predictor.load(sealed(tmp_path / "evil.keras", config_with(change)))


@pytest.mark.parametrize(
    "change",
    [
        lambda c: layer(c, "Rescaling")["config"].update(scale="x"),
        lambda c: layer(c, "Rescaling")["config"].update(scale=[]),
        lambda c: layer(c, "Rescaling").update(
            class_name="Resizing",
            config={"height": 32, "width": 32, "interpolation": 2**31, "name": "rescaling"},
        ),
        lambda c: layer(c, "ReLU").update(
            class_name="LayerNormalization", config={"epsilon": "x", "name": "relu"}
        ),
        lambda c: layer(c, "ReLU")["inbound_nodes"][0]["kwargs"].update(mask="x"),
    ],
)
def test_settings_that_fail_at_the_first_picture_are_refused_on_load(
    tmp_path: Path, change: Any
) -> None:
    with pytest.raises(fc.ModelFileError):
        fc.Predictor.load(sealed(tmp_path / "odd.keras", config_with(change)), runtime="keras")


def test_the_list_in_the_docs_is_the_one_in_the_code() -> None:
    page = (Path(__file__).parents[3] / "docs" / "how-to" / "model-files.md").read_text(
        encoding="utf-8"
    )
    section = page.partition("## What a network may hold")[2].partition("\n## ")[0]
    named = set(re.findall(r"`(\w+)`", section))
    known = {
        *safety._ACTIVATIONS,
        *(name for name in safety._STOCK[None] if not name.startswith("__")),
    }
    assert named == known - {"DTypePolicy"}


def test_windows_of_transposed_convolutions_count_as_memory(tmp_path: Path) -> None:
    """TensorFlow lays all of them out at once: here 1024 x 1024 places with 200 numbers in each of
    64 filters."""
    keras = import_keras()
    layers = keras.layers
    model = keras.Sequential(
        [
            *(
                keras.Input((512, 512, 3)),
                layers.UpSampling2D(2),
                layers.Conv2DTranspose(64, 14, padding="same"),
            ),
            *(layers.GlobalMaxPooling2D(), layers.Dense(2, activation="softmax")),
        ]
    )
    large = fc.Predictor(model, ["a", "b"], fc.Preprocessing(image_size=(512, 512)))
    with pytest.raises(fc.ModelFileError, match=r"not written.*a single image would need .* bytes"):
        large.save(tmp_path / "model.keras", light=False)
    assert not list(tmp_path.iterdir())


def test_want_of_memory_is_an_error_with_a_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the estimate says: TensorFlow may have less than a network needs."""
    import tensorflow as tf

    good = fc.Predictor.load(GOOD, runtime="keras")
    pixels = np.zeros((1, *good.image_size, 3), np.uint8)
    model = good.model

    def exhausted(*_: Any, **__: Any) -> Any:
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")

    with monkeypatch.context() as patch:
        patch.setattr("flowercnn.runtimes.convert.constant_function", lambda *_, **__: exhausted)
        with pytest.raises(fc.ConfigurationError, match=r"more memory than there is.*image_size"):
            good.predict_proba(pixels)
    monkeypatch.setattr(import_keras().Model, "__call__", exhausted)
    with pytest.raises(fc.ConfigurationError, match=r"model needs more memory.*image_size"):
        fc.Predictor(model, good.class_names, good.preprocessing)
    path = sealed(tmp_path / "m.keras", members())
    with pytest.raises(fc.ModelFileError, match=r"m\.keras.*needs more memory.*image_size"):
        fc.Predictor.load(path, runtime="keras")


def described(text: str) -> dict[str, bytes]:
    return members() | {DESCRIPTION: text.encode()}


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"format": "flowercnn-model", "version": "1.0", "info": ' + "[" * 500 + "]" * 500 + "}",
        '{"format": "flowercnn-model", "format": "flowercnn-model"}',
        '{"format": "flowercnn-model", "version": "1.0", "info": {"x": 1e999}}',
        '{"format": "flowercnn-model", "version": ' + "9" * 10_000 + "}",
        "null",
        "\ud800".encode("utf-8", "surrogatepass").decode("latin-1"),
        " " * 5_000_000,
    ],
)
def test_descriptions_that_are_none_are_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(fc.ModelFileError):
        fc.Predictor.load(sealed(tmp_path / "evil.keras", described(text)))


def test_archives_that_are_not_as_keras_writes_them_are_refused(tmp_path: Path) -> None:
    good = GOOD.read_bytes()
    bomb = sealed(
        tmp_path / "1.keras",
        members() | {"model.weights.h5": bytes(2**24)},
        compression=zipfile.ZIP_DEFLATED,
    )
    traversal = sealed(tmp_path / "2.keras", members() | {"../evil": b""})
    with (
        zipfile.ZipFile(sealed(tmp_path / "3.keras", members()), "a") as archive,
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        archive.writestr("config.json", b"{}")
    encrypted = bytearray(good)
    encrypted[good.index(b"PK\x01\x02") + 8] |= 1
    files = {
        "cut": good[:-1000],
        "grown": good + b"x",
        "before": b"x" + good,
        "encrypted": bytes(encrypted),
    }
    for name, content in files.items():
        (tmp_path / f"{name}.keras").write_bytes(content)
    for path in (
        bomb,
        traversal,
        tmp_path / "3.keras",
        *(tmp_path / f"{name}.keras" for name in files),
    ):
        with pytest.raises(fc.ModelFileError):
            fc.Predictor.load(path)


def flatbuffer_with(change: Callable[[Any, Any], object]) -> dict[str, bytes]:
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(members()["model.tflite"])
    change(model, schema)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return members() | {"model.tflite": bytes(builder.Output())}


def convolution(model: Any) -> Any:
    return next(
        each
        for each in model.subgraphs[0].operators
        if type(each.builtinOptions).__name__ == "Conv2DOptionsT"
    )


def code(model: Any, schema: Any, name: str) -> int:
    """The number of an operation, added if the network has none of this kind."""
    added = schema.OperatorCodeT()
    added.builtinCode = added.deprecatedBuiltinCode = getattr(schema.BuiltinOperator, name)
    model.operatorCodes.append(added)
    return len(model.operatorCodes) - 1


def operation(model: Any, schema: Any, name: str) -> Any:
    wanted = getattr(schema.BuiltinOperator, name)
    codes = [max(each.builtinCode, each.deprecatedBuiltinCode) for each in model.operatorCodes]
    return next(each for each in model.subgraphs[0].operators if codes[each.opcodeIndex] == wanted)


def output_of(model: Any, operator: Any) -> Any:
    return model.subgraphs[0].tensors[operator.outputs[0]]


def constant(model: Any) -> Any:
    return next(
        buffer for buffer in model.buffers if buffer.data is not None and len(buffer.data) > 100
    )


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda m, _: setattr(convolution(m).builtinOptions, "strideW", 0), "strideW=0"),
        (lambda m, _: setattr(convolution(m), "builtinOptions", None), "options NoneType"),
        (lambda m, _: setattr(m.operatorCodes[0], "customCode", "evil"), "operation"),
        (lambda m, s: setattr(m.operatorCodes[0], "builtinCode", s.BuiltinOperator.WHILE), "WHILE"),
        (lambda m, _: setattr(m.subgraphs[0].tensors[1], "buffer", 10**6), "outside"),
        (lambda m, _: setattr(m.subgraphs[0].tensors[1], "shape", [-1]), "shape"),
        (lambda m, _: setattr(m.subgraphs[0].tensors[1], "shape", [2**15, 2**15]), "bytes"),
        (
            lambda m, s: setattr(m.subgraphs[0].tensors[1], "type", s.TensorType.RESOURCE),
            "RESOURCE",
        ),
        (
            lambda m, _: setattr(m.subgraphs[0].operators[0], "inputs", [10**6]),
            "not computed before",
        ),
        (
            lambda m, _: setattr(
                m.subgraphs[0].operators[0], "outputs", list(m.subgraphs[0].inputs)
            ),
            "overwrites",
        ),
        (lambda m, _: setattr(constant(m), "data", np.zeros(4, np.uint8)), "bytes of data"),
        (lambda m, _: setattr(constant(m), "offset", 4096), "outside"),
        (lambda m, _: m.subgraphs.append(m.subgraphs[0]), "one graph"),
        (lambda m, _: setattr(m.subgraphs[0], "outputs", list(m.subgraphs[0].inputs) * 2), "shape"),
        (
            lambda m, _: setattr(m.subgraphs[0], "outputs", list(m.subgraphs[0].inputs)),
            "one input and 2 outputs",
        ),
    ],
)
def test_light_networks_that_could_hurt_the_interpreter_are_refused(
    tmp_path: Path, change: Any, reason: str
) -> None:
    with pytest.raises(fc.ModelFileError, match=f"rejected.*{reason}"):
        fc.Predictor.load(sealed(tmp_path / "evil.keras", flatbuffer_with(change)))


@pytest.mark.parametrize(
    "change",
    [
        lambda m, _: setattr(output_of(m, convolution(m)), "shape", [1, 4, 4, 4]),
        lambda m, s: setattr(output_of(m, operation(m, s, "MEAN")), "shape", [1, 2]),
    ],
)
def test_light_networks_whose_parts_do_not_fit_are_refused(tmp_path: Path, change: Any) -> None:
    """XNNPACK would believe the file, and read or write past its tensors."""
    with pytest.raises(fc.ModelFileError, match="does not fit together"):
        fc.Predictor.load(sealed(tmp_path / "evil.keras", flatbuffer_with(change)))


@pytest.mark.parametrize("content", [b"", b"TFL3", bytes(200), b"\xff" * 200])
def test_light_networks_that_are_none_are_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(fc.ModelFileError):
        fc.Predictor.load(sealed(tmp_path / "evil.keras", members() | {"model.tflite": content}))


def test_a_light_copy_from_elsewhere_does_not_pass_for_the_networks(tmp_path: Path) -> None:
    """Whatever member is exchanged without a new checksum, the file is rejected."""
    path = sealed(tmp_path / "m.keras", members())
    content = bytearray(path.read_bytes())
    content[content.index(b"TFL3") + 2000] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(fc.ModelFileError, match="damaged"):
        fc.Predictor.load(path)


def mutated(content: bytes, chance: random.Random) -> bytes:
    mutant = bytearray(content)
    for _ in range(chance.choice([1, 1, 3, 10])):
        start = chance.randrange(len(mutant))
        length = chance.randrange(1, 9)
        action = chance.randrange(3)
        if action == 0:
            mutant[start : start + length] = chance.randbytes(length)
        elif action == 1:
            del mutant[start : start + length]
        else:
            mutant[start:start] = chance.randbytes(length)
    return bytes(mutant)


@pytest.mark.parametrize("suffix", [".keras", ".h5", ".tflite", ".onnx"])
@pytest.mark.filterwarnings("ignore:.*HDF5 file.*")
def test_three_hundred_mutated_copies_are_refused(tmp_path: Path, suffix: str) -> None:
    chance = random.Random(0)
    good = tmp_path / f"good{suffix}"
    fc.Predictor.load(GOOD).export(good)
    content = good.read_bytes()
    for _ in range(300 if suffix == ".keras" else 60):
        mutant = mutated(content, chance)
        if mutant == content:
            continue
        (tmp_path / f"mutant{suffix}").write_bytes(mutant)
        with pytest.raises(fc.ModelFileError):
            fc.Predictor.load(tmp_path / f"mutant{suffix}")


def with_long_list(content: bytes) -> bytes:
    """More entries than members, of which only one is claimed."""
    end = content.rindex(b"PK\x05\x06")
    entry = b"PK\x01\x02" + bytes(24) + b"\x01" + bytes(17) + b"a"
    entries = entry * 2_000
    return (
        content[:end]
        + entries
        + struct.pack("<4s4H2L", b"PK\x05\x06", 0, 0, 1, 1, len(entries), 0)
        + content[end + 20 :]
    )


def with_larger_numbers(content: bytes) -> bytes:
    end = content.rindex(b"PK\x05\x06")
    return content[:end] + b"PK\x06\x07" + bytes(16) + content[end:]


def with_an_end_within_the_end(content: bytes) -> bytes:
    """zipfile looks at the very end first, where one without comment would be."""
    return with_long_list(content) + b"PK\x05\x06PK\x05\x06" + bytes(14)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (with_long_list, "more members than a model"),
        (with_larger_numbers, "more members than a model"),
        (with_an_end_within_the_end, "has no end"),
    ],
)
def test_lists_of_members_are_measured_before_they_are_read(
    tmp_path: Path, change: Any, reason: str
) -> None:
    path = tmp_path / "evil.keras"
    path.write_bytes(change(GOOD.read_bytes()))
    with pytest.raises(fc.ModelFileError, match=reason):
        fc.Predictor.load(path)


def test_what_is_loaded_is_what_was_checked(tmp_path: Path) -> None:
    """Another file under the same name, between the check and the use, changes nothing."""
    good = fc.Predictor.load(GOOD)
    path = good.save(tmp_path / "model.h5")
    file = read_model(path)
    path.write_bytes(b"evil")
    weights = [np.asarray(weight) for weight in file.keras_model().get_weights()]
    assert all(map(np.array_equal, weights, good.model.get_weights()))


def test_kerass_own_loaders_take_open_files(tmp_path: Path) -> None:
    """They are not public: a version that moves or changes them is found here."""
    from keras.src.legacy.saving import legacy_h5_format
    from keras.src.saving import saving_lib

    model = fc.Predictor.load(GOOD).model
    for name in ("model.keras", "model.h5"):
        path = tmp_path / name
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.save(path)
        content = io.BytesIO(path.read_bytes())
        if name.endswith(".keras"):
            loaded = saving_lib.load_model(content, compile=False, safe_mode=True)
        else:
            with h5py.File(content, "r") as weights:
                loaded = legacy_h5_format.load_model_from_hdf5(
                    weights, compile=False, safe_mode=True
                )
        assert all(map(np.array_equal, loaded.get_weights(), model.get_weights()))


def test_a_lambda_is_refused_even_where_keras_was_told_to_run_them(tmp_path: Path) -> None:
    evil = sealed(
        tmp_path / "evil.keras", config_with(lambda c: layer(c, "ReLU").update(class_name="Lambda"))
    )
    code = (
        "import sys, keras, flowercnn as "
        "fc\nkeras.config.enable_unsafe_deserialization()\ntry:\n    "
        "fc.Predictor.load(sys.argv[1], runtime='keras')\nexcept fc.ModelFileError as error:\n   "
        " print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(evil)], capture_output=True, text=True, check=True
    )
    assert "rejected" in done.stdout


@pytest.mark.parametrize("runtime", ["keras", "litert"])
def test_loading_opens_no_other_file_and_no_connection(tmp_path: Path, runtime: str) -> None:
    code = (
        "import sys, numpy as np, flowercnn as fc\ngood, path, runtime = sys.argv[1:]\nwarm = "
        "fc.Predictor.load(good, runtime=runtime); warm.predict_proba(np.zeros((1, 16, 16, 3), "
        "np.uint8))\nseen = []\nnames = ('open', 'socket.connect', 'socket.getaddrinfo', "
        "'tempfile.mkdtemp', 'tempfile.mkstemp',\n         'subprocess.Popen', 'os.system', "
        "'pickle.find_class', 'ctypes.dlopen')\nsys.addaudithook(lambda event, values: "
        "seen.append((event, values[0])) if event in names else None)\nfc.Predictor.load(path, "
        "runtime=runtime)\nprint([(event, what) for event, what in seen if not "
        "str(what).startswith('/proc/') and what != path])\n"
    )
    path = sealed(tmp_path / "model.keras", members())
    arguments = [sys.executable, "-c", code, str(GOOD), str(path), runtime]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

"""What loading hostile files does, as the operating system sees it: C opens files that Python's
hooks miss."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import flowercnn as fc
from flowercnn.saving.guards.archive import PLACEHOLDER, append_checksum, fill_checksum

pytestmark = pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")

GOOD = Path(__file__).parents[1] / "files" / "0.1.0.keras"
CODE = """
import os, sys, flowercnn as fc
good, folder, marker = sys.argv[1:]
for runtime in ("keras", "litert"):
    fc.Predictor.load(good, runtime=runtime)
    for name in sorted(os.listdir(folder)):  # what is imported late is imported now
        if name.startswith("good"):
            fc.Predictor.load(os.path.join(folder, name))
open(marker).close()
for name in sorted(os.listdir(folder)):
    for runtime in ("auto", "keras", "litert", "onnx"):
        try:
            fc.Predictor.load(os.path.join(folder, name), runtime=runtime)
            print("loaded", name, runtime)
        except fc.ModelFileError as error:
            print("rejected", name, runtime, str(error)[:200].replace(chr(10), " "))
"""


def archive(target: Path, changes: dict[str, bytes]) -> None:
    with zipfile.ZipFile(GOOD) as good:
        content = {name: good.read(name) for name in good.namelist()} | changes
    with zipfile.ZipFile(target, "w") as written:
        for name, data in content.items():
            written.writestr(name, data)
        written.comment = PLACEHOLDER
    fill_checksum(target)


def hostile_weights(folder: Path, secret: Path) -> None:
    layout = h5py.VirtualLayout((4,), "f4")
    layout[:] = h5py.VirtualSource(str(secret), "x", (4,))
    writers: dict[str, Any] = {
        "link": lambda f: f.update({"x": h5py.ExternalLink(str(secret), "/")}),
        "virtual": lambda f: f.create_virtual_dataset("x", layout),
        "external": lambda f: f.create_dataset("x", (4,), "f4", external=[(str(secret), 0, 16)]),
    }
    with zipfile.ZipFile(GOOD) as good:
        weights = good.read("model.weights.h5")
    fc.Predictor.load(GOOD).save(folder / "good.h5")
    for name, write in writers.items():
        path = folder / "weights.h5"
        path.write_bytes(weights)
        with h5py.File(path, "a") as file:
            write(file)
        archive(folder / f"{name}.keras", {"model.weights.h5": path.read_bytes()})
        path.unlink()
        legacy = folder / f"{name}.h5"
        legacy.write_bytes((folder / "good.h5").read_bytes()[: -len(PLACEHOLDER)])
        with h5py.File(legacy, "a") as file:
            write(file)
        append_checksum(legacy)


def hostile_networks(folder: Path, secret: Path) -> None:
    with zipfile.ZipFile(GOOD) as good:
        config = json.loads(good.read("config.json"))
    evil = {
        "lambda": {"class_name": "Lambda", "module": "keras.layers", "config": {"function": "x"}},
        "module": {"class_name": "system", "module": "os", "config": {"command": f"cat {secret}"}},
        "vocabulary": {
            "class_name": "StringLookup",
            "module": "keras.layers",
            "config": {"vocabulary": str(secret)},
        },
        "url": {
            "class_name": "get_file",
            "module": "keras.utils",
            "config": {"origin": "http://127.0.0.1:9/x"},
        },
        "saved": {
            "class_name": "TFSMLayer",
            "module": "keras.layers",
            "config": {"filepath": str(secret)},
        },
        "custom": {
            "class_name": "ReLU",
            "module": "keras.layers",
            "config": {},
            "registered_name": "evil>ReLU",
        },
    }
    for name, layer in evil.items():
        changed = json.loads(json.dumps(config))
        changed["config"]["layers"][1] = {**changed["config"]["layers"][1], **layer}
        archive(folder / f"{name}.keras", {"config.json": json.dumps(changed).encode()})
        compiled = {
            **config,
            "compile_config": {"optimizer": layer},
            "build_config": {"input_shape": layer},
        }
        archive(folder / f"compiled_{name}.keras", {"config.json": json.dumps(compiled).encode()})


def hostile_onnx(folder: Path, secret: Path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("tf2onnx")
    good = folder / "good.onnx"
    fc.Predictor.load(GOOD).export(good)
    model = onnx.load(good)
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = tensor.EXTERNAL
    tensor.external_data.add(key="location", value=str(secret))
    (folder / "outside.onnx").write_bytes(model.SerializeToString())


def test_hostile_files_open_nothing_and_connect_to_nothing(tmp_path: Path) -> None:
    folder, secret, marker = tmp_path / "files", tmp_path / "secret", tmp_path / "marker"
    folder.mkdir()
    secret.write_bytes(np.zeros(100, np.float32).tobytes())
    marker.touch()
    hostile_weights(folder, secret)
    hostile_networks(folder, secret)
    hostile_onnx(folder, secret)
    for leftover in folder.glob("*.json"):
        leftover.unlink()
    traced = ["strace", "-f", "--seccomp-bpf", "-qq", "-s", "300", "-o", str(tmp_path / "trace")]
    traced += ["-e", "trace=open,openat,openat2,connect,execve,unlink,rename,mkdir,symlink,link"]
    done = subprocess.run(
        [*traced, sys.executable, "-c", CODE, str(GOOD), str(folder), str(marker)],
        check=False,
        capture_output=True,
        text=True,
    )
    if "ptrace" in done.stderr.lower():
        pytest.skip("this machine lets nobody trace processes")
    assert done.returncode == 0, done.stderr
    answers = [
        line.split() for line in done.stdout.splitlines() if line.startswith(("loaded", "rejected"))
    ]
    hostile = [line for line in answers if not line[1].startswith("good")]
    assert len(hostile) > 30
    assert {line[0] for line in hostile} == {"rejected"}
    calls = (
        (tmp_path / "trace")
        .read_text()
        .partition(f'openat(AT_FDCWD, "{marker}"')[2]
        .splitlines()[1:]
    )
    programs = (
        sys.prefix,
        sys.base_prefix,
        Path(fc.__file__).parent,
        "/etc/ld.so",
        "/lib",
        "/usr/lib",
    )
    allowed = tuple(map(str, (folder, "/proc/", "/sys/", *programs)))
    for call in calls:
        if re.search(r" (exit|\+\+\+|---)", call) or "resumed>" in call:
            continue
        named = re.search(r'"([^"]*)"', call)
        assert named, call
        assert " open" in call, call  # nothing is connected to, run, made or removed
        assert named[1].startswith(allowed), call

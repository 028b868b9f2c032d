"""What the tests share: small pictures of coloured shapes, a data set of them, a classifier trained
on it."""

from __future__ import annotations

import dataclasses
import io
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageEnhance

import flowercnn as fc
from flowercnn.models.registry import recipe_of

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """A test of a network made by hand sees the same weights each time: Keras draws the seeds of
    layers from here."""
    random.seed(0)


COLOURS = {"blue": (30, 60, 200), "green": (40, 180, 60), "red": (210, 40, 30)}


def picture(colour: str, number: int, size: tuple[int, int] = (40, 48)) -> npt.NDArray[np.uint8]:
    """A noisy picture of one colour, the same for the same arguments."""
    noise = np.random.default_rng([number, *colour.encode()]).normal(0, 30, (*size, 3))
    return np.clip(np.array(COLOURS[colour]) + noise, 0, 255).astype(np.uint8)


def coloured_source(per_class: int = 10) -> fc.InMemory:
    pairs = [(colour, number) for colour in COLOURS for number in range(per_class)]
    return fc.InMemory(
        [picture(colour, number) for colour, number in pairs],
        [colour for colour, _ in pairs],
        keys=[f"{colour}/{number}.png" for colour, number in pairs],
    )


@pytest.fixture
def coloured() -> fc.Dataset:
    """Thirty pictures of three colours."""
    return fc.Dataset.from_source(coloured_source())


@pytest.fixture
def photo_folder(tmp_path: Path) -> Path:
    """A folder with ten PNG files in each of three class folders."""
    root = tmp_path / "photos"
    for colour in COLOURS:
        (root / colour).mkdir(parents=True)
        for number in range(10):
            Image.fromarray(picture(colour, number)).save(root / colour / f"{number}.png")
    return root


@pytest.fixture(scope="session")
def run() -> fc.TrainingRun:
    """A finished training on the coloured pictures, with splits and evaluation."""
    # At full size throughout: unlike photographs, noise looks otherwise when it is shrunk.
    recipe = dataclasses.replace(recipe_of("fast"), progressive=())
    settings: dict[str, Any] = {
        "image_size": (32, 32),
        "epochs": 16,
        "batch_size": 8,
        "recipe": recipe,
    }
    return fc.train(coloured_source(), model="fast", val=0.2, progress=False, **settings)


@pytest.fixture(scope="session")
def predictor(run: fc.TrainingRun) -> fc.Predictor:
    return run.predictor


@pytest.fixture(scope="session")
def photographs() -> Path:
    """Real photographs, one folder per class, where the machine has them."""
    folder = os.environ.get("FLOWERCNN_PHOTOS")
    if not folder or not Path(folder).is_dir():
        pytest.skip(reason="FLOWERCNN_PHOTOS does not name a folder of photographs")
    return Path(folder)


class Pictures:
    """Natural-looking textures, and copies as people make them."""

    @staticmethod
    def texture(seed: int, size: tuple[int, int] = (96, 128)) -> Image.Image:
        """A picture with the spectrum of a photograph: amplitudes fall with frequency."""
        rng = np.random.default_rng(seed)
        rows, columns = np.meshgrid(np.fft.fftfreq(size[0]), np.fft.fftfreq(size[1]), indexing="ij")
        falling = 1 / np.maximum(np.hypot(rows, columns), 1 / max(size))
        noise = [np.fft.ifft2(np.fft.fft2(rng.normal(size=size)) * falling).real for _ in range(3)]
        channels = np.stack([1.5 * noise[0] + each for each in noise], axis=-1)
        scaled = (channels - channels.mean()) / channels.std() * 45 + 120
        return Image.fromarray(np.clip(scaled, 0, 255).astype(np.uint8))

    @staticmethod
    def encoded(image: Image.Image, format_: str = "JPEG", **options: Any) -> bytes:
        buffer = io.BytesIO()
        image.save(buffer, format_, **options)
        return buffer.getvalue()

    @classmethod
    def copy_of(cls, image: Image.Image, how: int, seed: int = 0) -> Image.Image:
        """The picture recompressed, resized, slightly cropped or brightened: ``how`` modulo 4."""
        width, height = image.size
        match how % 4:
            case 0:
                return Image.open(io.BytesIO(cls.encoded(image, quality=35)))
            case 1:
                return image.resize((int(width * 0.6), int(height * 0.6)))
            case 2:
                chance = random.Random(seed)
                share = chance.uniform(0.9, 0.97)
                left, top = (
                    chance.uniform(0, width * (1 - share)),
                    chance.uniform(0, height * (1 - share)),
                )
                return image.crop(
                    (int(left), int(top), int(left + width * share), int(top + height * share))
                )
            case _:
                return ImageEnhance.Brightness(image).enhance(1.25)


@pytest.fixture(scope="session")
def pictures() -> Pictures:
    return Pictures()

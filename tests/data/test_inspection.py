from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from flowercnn import ImageError, Preprocessing
from flowercnn.data.inspection import Content, Inspector
from flowercnn.preprocessing import is_exact, ycbcr_to_rgb

SETTINGS = [
    Preprocessing(image_size=(96, 96)),
    Preprocessing(image_size=(40, 56), resize="pad"),
    Preprocessing(image_size=(200, 160), resize="stretch"),
    Preprocessing(image_size=(96, 96), background=(10, 200, 30)),
]


def files(pictures: Any) -> dict[str, bytes]:
    """One image in the formats and modes that are decoded in different ways."""
    texture = pictures.texture(3, (402, 517))
    turned = Image.Exif()
    turned[0x0112] = 6
    see_through = texture.convert("RGBA")
    see_through.putalpha(Image.linear_gradient("L").resize(texture.size))
    return {
        "jpeg": pictures.encoded(texture),
        "jpeg 4:4:4": pictures.encoded(texture, subsampling=0, quality=95),
        "grey jpeg": pictures.encoded(texture.convert("L")),
        "cmyk jpeg": pictures.encoded(texture.convert("CMYK")),
        "turned jpeg": pictures.encoded(texture, exif=turned),
        "small jpeg": pictures.encoded(texture.resize((50, 40))),
        "progressive jpeg": pictures.encoded(texture, progressive=True),
        "png": pictures.encoded(texture, "PNG"),
        "transparent png": pictures.encoded(see_through, "PNG"),
        "palette": pictures.encoded(texture.quantize(64), "PNG"),
        "16-bit grey": pictures.encoded(texture.convert("I;16"), "PNG"),
        "gif": pictures.encoded(texture.quantize(16), "GIF"),
        "webp": pictures.encoded(texture, "WEBP", quality=80),
        "tiff": pictures.encoded(texture.convert("YCbCr"), "TIFF"),
        "plain": pictures.encoded(Image.new("RGB", (300, 300), (9, 9, 9))),
    }


def same(one: Content, other: Content) -> bool:
    about = [
        (each.digest, each.error, each.size, each.format, each.rotated, each.blank)
        for each in (one, other)
    ]
    return (
        about[0] == about[1]
        and np.array_equal(one.thumbnail, other.thumbnail)  # type: ignore[arg-type]
        and np.array_equal(one.colours, other.colours)  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("settings", SETTINGS, ids=["crop", "pad", "stretch", "background"])
def test_one_decoding_gives_what_two_would(pictures: Any, settings: Preprocessing) -> None:
    for name, content in files(pictures).items():
        inspector = Inspector(content)
        assert np.array_equal(inspector.pixels(settings), settings.decode(content)), name
        assert same(inspector.content("x"), Inspector(content).content("x")), name


def test_photographs_are_inspected_alike_with_and_without_their_pixels(photographs: Path) -> None:
    settings = Preprocessing(image_size=(96, 96))
    for path in sorted(photographs.rglob("*.jpg"))[::100]:
        content = path.read_bytes()
        inspector = Inspector(content)
        assert np.array_equal(inspector.pixels(settings), settings.decode(content))
        assert same(inspector.content("x"), Inspector(content).content("x"))


def test_an_image_that_cannot_be_decoded_is_an_error_and_a_finding() -> None:
    inspector = Inspector(b"text")
    with pytest.raises(ImageError, match="not an image in one of the formats"):
        inspector.pixels(SETTINGS[0])
    assert "not an image" in (inspector.content("x").error or "")


def test_the_conversion_of_a_jpeg_is_that_of_its_decoder() -> None:
    assert is_exact()
    buffer = io.BytesIO()
    noise = np.random.default_rng(5).integers(0, 256, (61, 83, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, "JPEG", quality=90)
    ycbcr, rgb = Image.open(buffer), Image.open(buffer)
    ycbcr.draft("YCbCr", ycbcr.size)
    assert np.array_equal(np.asarray(ycbcr_to_rgb(ycbcr)), np.asarray(rgb))
    assert not np.array_equal(
        np.asarray(ycbcr.convert("RGB")), np.asarray(rgb)
    )  # Pillow rounds otherwise

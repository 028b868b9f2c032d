from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st
from PIL import Image

from flowercnn import ImageError
from flowercnn.preprocessing.decode import FORMATS, decode_image, read_content

WHITE = (255, 255, 255)


def encoded(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:  # noqa: A002 - Pillow's word
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def decoded(content: bytes | Image.Image, **options: Any) -> np.ndarray[Any, Any]:
    settings: dict[str, Any] = {"background": WHITE, "max_pixels": 10**6} | options
    image = decode_image(content, **settings)
    assert image.mode == "RGB"
    return np.asarray(image)


def gradient(width: int = 40, height: int = 30) -> Image.Image:
    rows, columns = np.mgrid[0:height, 0:width]
    channels = [255 * rows / height, 255 * columns / width, 128 + 0 * rows]
    return Image.fromarray(np.stack(channels, axis=2).astype(np.uint8))


@pytest.mark.parametrize("format_name", FORMATS)
def test_every_format_is_told_by_its_content(format_name: str) -> None:
    pixels = decoded(encoded(gradient(), format_name))
    assert pixels.shape == (30, 40, 3)


def test_a_misnamed_file_is_decoded_by_what_it_is(tmp_path: Path) -> None:
    path = tmp_path / "really-a-png.jpg"
    path.write_bytes(encoded(gradient(), "PNG"))
    content = read_content(path)
    assert np.array_equal(decoded(content), np.asarray(gradient()))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(orientation: int) -> None:
    upright = gradient()
    turns = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(turns[orientation]) if orientation in turns else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert np.array_equal(decoded(encoded(stored, "PNG", exif=exif)), np.asarray(upright))


def test_transparent_parts_show_the_background() -> None:
    image = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    image.putpixel((0, 0), (255, 0, 0, 255))
    pixels = decoded(encoded(image), background=(0, 0, 250))
    assert pixels[0, 0].tolist() == [255, 0, 0]
    assert pixels[3, 3].tolist() == [0, 0, 250]


def test_half_transparent_parts_are_mixed() -> None:
    pixels = decoded(encoded(Image.new("LA", (2, 2), (0, 128))), background=WHITE)
    assert pixels[0, 0].tolist() == [127, 127, 127]


def test_palettes_become_rgb_with_or_without_transparency() -> None:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 10, 200, 30])
    assert decoded(encoded(image))[0, 0].tolist() == [10, 200, 30]
    assert decoded(encoded(image, transparency=1))[0, 0].tolist() == [255, 255, 255]


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "CMYK", "YCbCr"])
def test_every_usual_mode_becomes_rgb(mode: str) -> None:
    # Pillow before 13 writes TIFF files of YCbCr that it cannot read.
    pixels = decoded(encoded(gradient().convert(mode), "JPEG" if mode == "YCbCr" else "TIFF"))
    assert pixels.shape == (30, 40, 3)


def test_cmyk_jpegs_keep_their_colours() -> None:
    red = Image.new("RGB", (16, 16), (200, 30, 30)).convert("CMYK")
    assert (
        np.abs(decoded(encoded(red, "JPEG", quality=95))[8, 8].astype(int) - [200, 30, 30]).max()
        <= 4
    )


def test_sixteen_bit_greys_keep_their_high_byte() -> None:
    image = Image.fromarray(np.array([[0, 256, 65535]], dtype=np.uint16))
    assert decoded(encoded(image))[0, :, 0].tolist() == [0, 1, 255]


def test_greys_without_a_defined_range_are_refused() -> None:
    with pytest.raises(ImageError, match="float"):
        decoded(encoded(Image.new("F", (2, 2), 0.5), "TIFF"))
    with pytest.raises(ImageError, match="beyond 16 bits"):
        decoded(Image.fromarray(np.array([[70000]], dtype=np.int32)))


def test_the_first_of_several_frames_is_taken() -> None:
    frames = [Image.new("RGB", (5, 5), colour) for colour in ("red", "blue")]
    content = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decoded(content)[0, 0].tolist() == [255, 0, 0]


def test_arrays_and_pillow_images_are_taken_as_they_are() -> None:
    array = np.asarray(gradient())
    for image in (array, array[..., :1], array[..., 0], np.dstack([array, array[..., 0]])):
        assert decoded(read_content(image)).shape == (30, 40, 3)
    assert np.array_equal(decoded(read_content(gradient())), array)


HALF_TRANSPARENT = Image.new("LA", (2, 2), (200, 128)).convert("La")
GREY_OF_LAB = Image.new("LAB", (2, 2), (128, 128, 128))


@pytest.mark.parametrize("mode", ["RGB", "L", "YCbCr"])
@pytest.mark.parametrize(
    ("image", "grey"), [(HALF_TRANSPARENT, 227), (GREY_OF_LAB, 119)], ids=["La", "LAB"]
)
def test_modes_that_pillow_does_not_convert_at_once_are_pictures(
    image: Image.Image, grey: int, mode: Any
) -> None:
    picture = decode_image(image, background=WHITE, max_pixels=10**6, mode=mode)
    assert picture.mode == mode
    assert abs(np.asarray(picture.convert("L")).astype(int) - grey).max() <= 2


def test_functions_are_called_for_bytes() -> None:
    content = encoded(gradient())
    assert read_content(lambda: content) == content


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (np.zeros((4, 4, 3)), "uint8"),
        (np.zeros((4, 4, 2), np.uint8), "shape"),
        (np.zeros((0, 4, 3), np.uint8), "shape"),
        (np.zeros((1, 4, 4, 3), np.uint8), "shape"),
        (lambda: "text", "must return bytes"),
        (3, "Received: int"),
        (None, "Received: NoneType"),
    ],
)
def test_what_is_no_picture_is_refused(image: Any, reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        read_content(image)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"not a picture at all", "not an image in one of the formats"),
        (b"%PDF-1.4", "not an image"),
        (encoded(gradient(200, 200), "JPEG")[:900], "damaged or cut short"),
        (encoded(gradient(200, 200), "PNG")[:300], "damaged or cut short"),
        (b"\xff\xd8\xff\xe0" + bytes(20), "not an image|damaged"),
    ],
)
def test_damaged_content_is_refused_with_the_reason(content: bytes, reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        decoded(content)


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (0, 0)])
def test_a_picture_without_pixels_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(
        ImageError, match=f"{size[0]} x {size[1]} pixels: an image must have at least one"
    ):
        decoded(Image.new("RGB", size))


def png_that_claims(width: int, height: int) -> bytes:
    """A few bytes of PNG whose header promises a huge picture."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 99))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("side", [30_000, 10_000])
def test_a_pixel_bomb_is_refused_before_it_is_decoded(side: int) -> None:
    with pytest.raises(ImageError, match=r"too large|more than max_pixels"):
        decoded(png_that_claims(side, side), max_pixels=89_478_485)


def test_the_limit_of_pixels_can_be_set() -> None:
    assert decoded(encoded(gradient()), max_pixels=1200).shape == (30, 40, 3)
    with pytest.raises(ImageError, match="40 x 30 pixels are more than max_pixels=1,199"):
        decoded(encoded(gradient()), max_pixels=1199)


def test_unreadable_files_say_why(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="No such file"):
        read_content(tmp_path / "missing.jpg")
    with pytest.raises(ImageError, match="directory|regular"):
        read_content(tmp_path)
    with pytest.raises(ImageError, match="null"):
        read_content("a\0b")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are a thing of Unix")
def test_a_named_pipe_is_refused_and_holds_nothing_up(tmp_path: Path) -> None:
    pipe = tmp_path / "photo.jpg"
    os.mkfifo(pipe)
    with pytest.raises(ImageError, match="not a regular file"):
        read_content(pipe)


@pytest.mark.parametrize("orientation", [1, 6])
def test_large_jpegs_are_decoded_smaller_but_stay_larger_than_wanted(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(gradient(1600, 1200), "JPEG", exif=exif)
    whole, drafted = (
        decoded(content, max_pixels=10**7),
        decoded(content, max_pixels=10**7, at_least=(110, 130)),
    )
    assert drafted.shape[0] * (8 if orientation == 1 else 4) == whole.shape[0]
    assert drafted.shape[0] >= 1.25 * 110
    assert drafted.shape[1] >= 1.25 * 130


def test_decoding_smaller_changes_little_after_resizing(photographs: Path) -> None:
    from flowercnn.preprocessing.resize import resize

    differences = []
    for path in sorted(photographs.glob("*/*.jpg"))[::50]:
        content = path.read_bytes()
        whole, drafted = (
            resize(
                decode_image(content, background=WHITE, max_pixels=10**8, at_least=size),
                (128, 128),
                "crop",
                WHITE,
            )
            for size in (None, (128, 128))
        )
        differences.append(
            np.abs(np.asarray(whole, dtype=float) - np.asarray(drafted, dtype=float)).mean()
        )
    assert max(differences) < 5  # of 255
    assert np.mean(differences) < 1.5


@given(
    st.binary(max_size=300),
    st.sampled_from(["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"]),
    st.data(),
)
@limits(deadline=None, max_examples=150)
def test_mutated_files_give_a_picture_or_an_image_error(
    junk: bytes, format_name: str, data: st.DataObject
) -> None:
    content = encoded(gradient(), format_name)
    start = data.draw(st.integers(0, len(content)))
    mutated = content[:start] + junk + content[start + len(junk) :]
    try:
        pixels = decoded(mutated)
    except (ImageError, UserWarning):
        return  # Pillow warns of odd metadata; here warnings are errors
    assert pixels.dtype == np.uint8

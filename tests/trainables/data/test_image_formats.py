"""What becomes of one image: upright, on white, its first picture; and what is no image."""

import io

import numpy as np
import pytest
from PIL import Image

from trainables.data.image_formats import Trait, ending_of, image_size, is_image_name, read_image
from trainables.errors import UserError


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pixels(data: bytes) -> np.ndarray:
    image, _ = read_image("here", data)
    assert image.mode == "RGB"
    return np.asarray(image)


@pytest.fixture
def picture() -> Image.Image:
    """8 pixels high, 16 wide, nowhere symmetric."""
    rows = np.random.RandomState(0).randint(0, 256, (8, 16, 3), dtype=np.uint8)
    return Image.fromarray(rows)


# How the upright picture was laid down so that a viewer has to turn it: the EXIF standard's table.
LAID = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: a[::-1].transpose(1, 0, 2)[::-1, ::-1],
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: a[::-1].transpose(1, 0, 2),
}


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_stand_upright(picture: Image.Image, kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    laid = Image.fromarray(np.ascontiguousarray(LAID[orientation](np.asarray(picture))))
    data = encoded(laid, kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
    np.testing.assert_array_equal(pixels(data), np.asarray(picture))
    assert image_size("here", data) == (8, 16)
    if kind != "TIFF":  # Pillow turns those by itself
        turned = read_image("here", data)[1] == Trait.TURNED
        assert turned == (orientation > 1)


def test_a_jpeg_photograph_stands_upright() -> None:
    half = np.zeros((32, 64, 3), dtype=np.uint8)
    half[:, :32] = 255  # bright on the left
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise: what is left comes to the top
    upright = pixels(encoded(Image.fromarray(half), "JPEG", exif=exif))
    assert upright.shape == (64, 32, 3)
    assert upright[:28].mean() > 250
    assert upright[36:].mean() < 5


def test_damaged_exif_does_not_damage_the_pixels(picture: Image.Image) -> None:
    data = encoded(picture, "PNG", exif=b"Exif\0\0MM not a header")
    np.testing.assert_array_equal(pixels(data), np.asarray(picture))


def test_orientation_behind_the_pixels_counts(picture: Image.Image) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(picture, "PNG", exif=exif)
    start = data.index(b"eXIf") - 4
    length = int.from_bytes(data[start : start + 4], "big") + 12
    chunk, rest = data[start : start + length], data[:start] + data[start + length :]
    end = rest.index(b"IEND") - 4
    late = rest[:end] + chunk + rest[end:]
    assert image_size("here", late) == (16, 8)
    assert read_image("here", late)[0].size == (8, 16)


def test_what_is_transparent_is_white(picture: Image.Image) -> None:
    layer = np.zeros((8, 16), dtype=np.uint8)
    layer[:, 8:] = 255
    seen = picture.copy()
    seen.putalpha(Image.fromarray(layer))
    found = pixels(encoded(seen))
    assert (found[:, :8] == 255).all()
    np.testing.assert_array_equal(found[:, 8:], np.asarray(picture)[:, 8:])
    assert read_image("here", encoded(seen))[1] == Trait.TRANSPARENT


def test_half_transparent_pixels_are_half_white() -> None:
    grey = Image.fromarray(np.full((4, 4), 55, dtype=np.uint8))
    grey.putalpha(102)  # two fifths of it
    assert np.abs(pixels(encoded(grey)).astype(int) - (55 * 0.4 + 255 * 0.6)).max() <= 1


def test_opaque_layers_change_nothing(picture: Image.Image) -> None:
    opaque = picture.copy()
    opaque.putalpha(255)
    np.testing.assert_array_equal(pixels(encoded(opaque)), np.asarray(picture))
    assert read_image("here", encoded(opaque))[1] == Trait.NONE


@pytest.mark.parametrize("mode", ["P", "L"])
def test_a_transparent_colour_is_white(mode: str) -> None:
    levels = np.array([[0, 1, 2, 3]] * 2, dtype=np.uint8)
    image = Image.fromarray(levels)
    if mode == "P":
        image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110, 120])
    found = pixels(encoded(image, "PNG", transparency=2))
    assert (found[:, 2] == 255).all()
    assert tuple(found[0, 3]) == ((100, 110, 120) if mode == "P" else (3, 3, 3))


def test_cmyk_and_one_bit_images_become_rgb() -> None:
    ink = np.zeros((16, 16, 4), dtype=np.uint8)
    ink[..., 0] = 255  # cyan takes the red away
    red, green, blue = pixels(encoded(Image.fromarray(ink, "CMYK"), "JPEG"))[8, 8].tolist()
    assert red < 10
    assert min(green, blue) > 245
    bits = Image.fromarray(np.eye(8, dtype=bool))
    np.testing.assert_array_equal(pixels(encoded(bits, "PPM"))[..., 1], np.eye(8) * 255)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_of_an_animation_the_first_picture_is_read(kind: str) -> None:
    frames = [Image.fromarray(np.full((8, 8), level, dtype=np.uint8)) for level in (10, 200, 90)]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    image, trait = read_image("here", data)
    assert trait == Trait.ANIMATED
    assert (np.asarray(image) == 10).all()
    assert read_image("here", encoded(frames[0], kind))[1] == Trait.NONE


def deep(kind: str) -> bytes:
    levels = np.full((8, 8), 40_000, dtype=np.uint16)
    if kind == "pgm":
        return b"P5 8 8 65535\n" + levels.astype(">u2").tobytes()
    if kind == "float tiff":
        return encoded(Image.fromarray(levels.astype(np.float32)), "TIFF")
    return encoded(Image.fromarray(levels), kind.upper())


@pytest.mark.parametrize("kind", ["png", "tiff", "pgm", "float tiff"])
def test_grey_of_more_than_eight_bits_is_refused(kind: str) -> None:
    for read in (read_image, image_size):
        with pytest.raises(UserError, match=r"here: does not decode.*expected 8 bits per channel"):
            read("here", deep(kind))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "it is empty: 0 bytes"),
        (b"<html>404</html>", "begins with b'<html>40'"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n", "no kind of image"),  # a program
        (encoded(Image.new("RGB", (64, 64)), "BMP")[:900], "truncated"),
        (encoded(Image.effect_noise((64, 64), 50), "GIF")[:500], "here"),
        (encoded(Image.effect_noise((64, 64), 50), "JPEG")[:500], "truncated"),
    ],
)
def test_what_does_not_decode_says_why(data: bytes, reason: str) -> None:
    with pytest.raises(UserError, match="here: does not decode as an image") as caught:
        read_image("here", data)
    assert reason in str(caught.value)
    assert len(str(caught.value)) < 300


def test_names_of_images() -> None:
    read = "a.jfif a.JPE a.gif a.pgm a.pbm a.pnm a.apng a.dib a.tga a.b.TIFF .hidden.png"
    assert all(is_image_name(name) for name in read.split())
    assert not any(
        is_image_name(name) for name in ["a.txt", "png", ".png", "a.eps", "a.pdf", "a.", "a.npy"]
    )
    assert [ending_of(name) for name in ("a.b.PNG", "a", ".png", "a.")] == [".png", "", "", "."]
    # As far as this install has their codecs.
    for ending, kind in ((".avif", "AVIF"), (".jp2", "JPEG2000"), (".heic", "HEIF")):
        Image.init()
        assert is_image_name(f"a{ending}") == (kind in Image.OPEN)

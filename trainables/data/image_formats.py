"""One compressed image made upright RGB pixels, and which kinds of file are read at all."""

import enum
import functools
import io

from PIL import Image, UnidentifiedImageError

from trainables.errors import UserError

# Those that Pillow opens by itself, safely: nothing that runs a program (EPS), no vectors, no
# video. What needs a codec that an install may lack is asked for; see `is_image_name`.
_ALWAYS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png", ".apng"),
    "GIF": (".gif",),
    "BMP": (".bmp",),
    "DIB": (".dib",),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
    "MPO": (".mpo",),
    "PCX": (".pcx",),
    "TGA": (".tga",),
}
_WITH_CODEC = {
    "JPEG2000": (".jp2", ".j2k", ".jpf", ".jpx", ".j2c"),
    "AVIF": (".avif",),
    "HEIF": (".heic", ".heif"),
    "QOI": (".qoi",),
}
_ALWAYS_ENDINGS = frozenset(ending for endings in _ALWAYS.values() for ending in endings)
IMAGE_ENDINGS = _ALWAYS_ENDINGS | {end for endings in _WITH_CODEC.values() for end in endings}
"""What image files are called, read here or not."""

_DEEP_MODES = ("I", "F")
# Where Pillow puts what may hold an orientation. Asking for EXIF that is not there costs time.
_ORIENTED = ("exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif")
_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class Trait(enum.IntFlag):
    """What was done to an image that a user may want to know."""

    NONE = 0
    TURNED = 1
    TRANSPARENT = 2
    ANIMATED = 4


def is_image_name(name: str) -> bool:
    """Whether this install reads files that are called so."""
    ending = ending_of(name)
    if ending in _ALWAYS_ENDINGS:
        return True
    return ending in IMAGE_ENDINGS and ending in _endings_with_codec()


def ending_of(name: str) -> str:
    """``.png`` of ``a.b.PNG``; empty where there is none. A leading dot begins no ending."""
    stem, dot, ending = name.rpartition(".")
    return f".{ending.lower()}" if dot and stem else ""


def read_image(where: str, data: bytes) -> tuple[Image.Image, Trait]:
    """Decodes an image: upright as its EXIF data say, its first frame, transparency on white.

    Args:
        where: it lies, for errors.
        data: the compressed image.

    Returns:
        The image in mode RGB, and what was done to it.

    Raises:
        UserError: it does not decode, or has more than 8 bits of grey per pixel, which would
            have to be scaled by a range that nobody knows.
    """
    try:
        with _open(data) as image:
            return _upright_rgb(image)
    except Exception as error:  # PIL raises OSError, SyntaxError, ValueError, struct.error, ...
        raise _undecodable(where, data, error) from error


def _upright_rgb(image: Image.Image) -> tuple[Image.Image, Trait]:
    trait = Trait.NONE
    # The second picture of a camera's MPO file is a preview.
    if getattr(image, "is_animated", False) and image.format != "MPO":
        trait |= Trait.ANIMATED
    if image.has_transparency_data:
        pixels, seen_through = _on_white(image)
        if seen_through:
            trait |= Trait.TRANSPARENT
    elif image.mode == "RGB":
        image.load()
        pixels = image
    else:
        pixels = image.convert("RGB")
    # Asked for last: in a PNG it may lie behind the pixels.
    turn = _UPRIGHT.get(_orientation(image))
    if turn is not None:  # Pillow's first way to turn is number 0
        return pixels.transpose(turn), trait | Trait.TURNED
    return pixels, trait


def image_size(where: str, data: bytes) -> tuple[int, int]:
    """``(height, width)`` of the upright image, from its header where that tells.

    Raises:
        UserError: as `read_image`, as far as the header tells.
    """
    try:
        with _open(data) as image:
            late = image.format == "PNG" and "exif" not in image.info and b"eXIf" in data
            if late or _orientation(image) in _UPRIGHT:
                upright, _ = _upright_rgb(image)
                return upright.height, upright.width
            return image.height, image.width
    except Exception as error:
        raise _undecodable(where, data, error) from error


def _open(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data), formats=_formats())
    if image.mode.startswith(_DEEP_MODES):
        raise ValueError(f"pixels of mode {image.mode}, expected 8 bits per channel")
    return image


def _orientation(image: Image.Image) -> int:
    if not any(key in image.info for key in _ORIENTED):
        return 1
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # PIL raises many kinds on damaged EXIF, which does not damage the pixels
        return 1


def _on_white(image: Image.Image) -> tuple[Image.Image, bool]:
    """RGB, and whether anything was transparent. What is hidden there may be of any colour."""
    layered = image.convert("RGBA")
    low, _ = layered.getchannel("A").getextrema()
    if low == 255:
        return layered.convert("RGB"), False
    white = Image.new("RGBA", layered.size, "white")
    return Image.alpha_composite(white, layered).convert("RGB"), True


def _undecodable(where: str, data: bytes, error: Exception) -> UserError:
    if not data:
        reason = "it is empty: 0 bytes"
    elif isinstance(error, UnidentifiedImageError):
        reason = f"no kind of image that is read here; it begins with {data[:8]!r}"
    else:
        reason = str(error) or type(error).__name__
    return UserError(f"{where}: does not decode as an image ({reason})")


@functools.cache
def _formats() -> list[str]:
    """Names of formats for Pillow, the frequent ones first."""
    Image.init()
    return [name for name in (*_ALWAYS, *_WITH_CODEC) if name in Image.OPEN]


@functools.cache
def _endings_with_codec() -> frozenset[str]:
    known = Image.registered_extensions()
    return frozenset(end for end, name in known.items() if name in Image.OPEN)

"""Masks of PASCAL VOC: PNGs whose values are the numbers of classes."""

import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from trainables.data.dataset import VOID, Images, Masks
from trainables.data.image_formats import image_size
from trainables.data.notes import listed
from trainables.errors import UserError

_BIT_DEPTH = 24  # its byte in a PNG


def read_mask(file: Path, classes: int) -> np.ndarray:
    """The classes of an image's pixels: uint8 ``[H, W]``, k + 1 for class k, 0 and `VOID`.

    Args:
        file: of the mask.
        classes: how many there are.

    Raises:
        UserError: the file is no PNG of such values.
    """
    try:
        data = file.read_bytes()
        with Image.open(io.BytesIO(data)) as image:
            kind, mode, values = image.format, image.mode, np.asarray(image)
    except UnidentifiedImageError as error:  # which names an object in memory
        raise UserError(f"{file}: the mask does not decode: it is no image") from error
    except Exception as error:  # PIL raises OSError, SyntaxError, ValueError, struct.error, ...
        raise UserError(f"{file}: the mask does not decode: {error}") from error
    if kind != "PNG":  # of a JPEG, whatever it is called, values are not what was drawn
        raise UserError(f"{file}: expected a mask as a PNG, it is a {kind}")
    if mode == "L" and data[_BIT_DEPTH] < 8:  # which Pillow spreads over 0 to 255
        raise UserError(f"{file}: expected a grey mask of 8 bits, it has {data[_BIT_DEPTH]}")
    if mode not in ("P", "L"):
        raise UserError(
            f"{file}: expected a mask of class numbers (a palette, or grey), it is {mode}"
        )
    beyond = np.unique(values[(values > classes) & (values != VOID)])
    if len(beyond):
        raise UserError(
            f"{file}: expected classes up to {classes} and {VOID} for void, "
            f"it has {listed([str(one) for one in beyond])}"
        )
    return values


def read_masks(
    files: Sequence[Path | None], images: Sequence[Path], side: int, classes: int
) -> Masks | None:
    """Those of images that have one, squeezed as the images are, by the nearest pixel.

    Args:
        files: a mask of each image, or None.
        images: the photographs.
        side: of the square.
        classes: how many there are.

    Raises:
        UserError: as `read_mask`, and for a mask of another size than its image.
    """
    there = [(place, file) for place, file in enumerate(files) if file is not None]
    if not there:
        return None
    values = np.empty((len(there), side, side), dtype=np.uint8)
    for row, (place, file) in enumerate(there):
        mask = Image.fromarray(read_mask(file, classes))
        height, width = image_size(str(images[place]), images[place].read_bytes())
        if mask.size != (width, height):
            raise UserError(
                f"{file}: the mask has {mask.width}x{mask.height} pixels, "
                f"its image {width}x{height}"
            )
        values[row] = np.asarray(mask.resize((side, side), Image.Resampling.NEAREST))
    return Masks(torch.tensor([place for place, _ in there]), torch.from_numpy(values))


def contradicting(part: Images) -> Iterator[int]:
    """Images whose mask shows a class to which their labels say no: positions in the set."""
    if part.masks is None:
        return
    classes = part.labels.shape[1]
    for place, values in zip(part.masks.positions.tolist(), part.masks.values, strict=True):
        counts = torch.bincount(values.flatten(), minlength=VOID + 1)[1 : classes + 1]
        if ((counts > 0) & (part.labels[place] == 0)).any():
            yield place

"""What exported networks have in common: their input, and what they must pass to become a file."""

import copy
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from trainables.data.views import to_float
from trainables.errors import UserError
from trainables.files import open_folder
from trainables.models.family import ImageShape
from trainables.models.outputs import Network

Statistics = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation per channel, of pixels in [0, 1]."""

FileAnswer = Callable[[Tensor], Tensor]
"""From images as the file takes them, on the CPU, to logits ``[B, classes]``."""

INPUT, OUTPUT = "images", "logits"

TOLERANCE = 1e-4
"""By how much a logit may differ, over the largest logit of its batch or 1, whichever is more."""

ROUNDED_TOLERANCE = 0.05
"""The same of a network that rounds its activations, as a root mean square over that of the logits.

A value next to the middle between two steps falls on either side by the last bit of a sum, which
every library adds up in its own order; from there on the difference is a whole step. Measured on a
ResNet-20 of 8 bits: 0.009.
"""

_BATCHES = (1, 2, 7, 64)
_SEED = 20_261_128
_ROUNDING = ("round", "floor", "ceil", "trunc", "quantize_per", "fake_quantize")


class Served(nn.Module):
    """A network as others run it: images in, logits out, on the CPU, in evaluation mode.

    Args:
        network: is copied.
        statistics: normalise inside by these: it then takes uint8 pixels ``[B, C, H, W]``. None:
            it takes float32 images that are normalised already.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, network: Network, statistics: Statistics | None = None) -> None:
        super().__init__()
        own = copy.deepcopy(network).cpu().to(memory_format=torch.contiguous_format)
        self.network = own.eval().requires_grad_(False)
        self.raw = statistics is not None
        if statistics is not None:
            mean, std = statistics
            scale = [1 / (255 * s) for s in std]  # as `to_float` computes it
            shift = [-m / s for m, s in zip(mean, std, strict=True)]
            self.register_buffer("scale", torch.tensor(scale).view(-1, 1, 1))
            self.register_buffer("shift", torch.tensor(shift).view(-1, 1, 1))
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        if self.raw:
            images = images.to(torch.float32) * self.scale + self.shift
        logits: Tensor = self.network(images).logits
        return logits

    def sample(self, image_shape: ImageShape) -> Tensor:
        """Two black images as it takes them: what it is traced with, equal in every export."""
        return torch.zeros(2, *image_shape, dtype=torch.uint8 if self.raw else torch.float32)


def input_text(image_shape: ImageShape, statistics: Statistics | None) -> str:
    """What a file's input is, in words, for its metadata."""
    shape = f"[batch, {', '.join(map(str, image_shape))}]"
    if statistics is not None:
        return f"uint8 {shape}: pixels from 0 to 255 as they are; the file normalises them"
    return f"float32 {shape}: (pixels / 255 - mean) / std by channel"


def check_against(
    network: Network,
    answer: FileAnswer,
    image_shape: ImageShape,
    statistics: Statistics | None,
    what: str,
) -> float:
    """Compares what was exported with the network itself, on random images in several batches.

    Args:
        network: on any device.
        answer: of what was exported.
        image_shape, statistics: of its images; as for `Served`.
        what: was exported, in words, for the error.

    Returns:
        The largest difference of a logit, over the largest logit of its batch or 1.

    Raises:
        UserError: it answers otherwise; with a logit of both.
    """
    own = Served(network)
    generator = torch.Generator().manual_seed(_SEED)
    said: list[tuple[Tensor, Tensor]] = []
    for batch in _BATCHES:
        pixels = torch.randint(256, (batch, *image_shape), generator=generator, dtype=torch.uint8)
        if statistics is not None:
            images, given = to_float(pixels, *statistics), pixels
        else:
            images = given = torch.randn(batch, *image_shape, generator=generator)
        with torch.no_grad():
            said.append((own(images).float(), answer(given).float()))
    return _compared(said, rounds(own, image_shape), what)


def _compared(said: Sequence[tuple[Tensor, Tensor]], rounded: bool, what: str) -> float:
    worst = 0.0
    for expected, found in said:
        if found.shape != expected.shape:
            shapes = f"{tuple(found.shape)} instead of {tuple(expected.shape)}"
            raise UserError(f"{what} answers with logits of shape {shapes}: no file is written")
        errors = (found - expected).abs() / expected.abs().max().clamp(min=1.0)
        errors = errors.nan_to_num(torch.inf)
        worst = max(worst, errors.max().item())
        far = errors.argmax()
        if not rounded and worst > TOLERANCE:
            theirs, ours = found.flatten()[far].item(), expected.flatten()[far].item()
            raise UserError(
                f"{what} disagrees with the network: in a batch of {len(expected)} a logit is "
                f"{theirs:.6g} instead of {ours:.6g}: no file is written"
            )
    if rounded:
        expected, found = (torch.cat(side) for side in zip(*said, strict=True))
        error, size = (x.square().mean().sqrt().item() for x in (found - expected, expected))
        if not error <= ROUNDED_TOLERANCE * size:
            raise UserError(
                f"{what} disagrees with the network: its logits differ by {error:.4g} (root mean "
                f"square), where they are {size:.4g} large: no file is written"
            )
    return worst


def rounds(served: Served, image_shape: ImageShape) -> bool:
    """Whether a network rounds on the way from images to logits."""
    return any(word in name for name in operators(served, image_shape) for word in _ROUNDING)


def operators(served: Served, image_shape: ImageShape) -> set[str]:
    """The operators that run from images to logits: ``aten.convolution.default``."""
    with _Operators() as seen, torch.no_grad():
        served(served.sample(image_shape))
    return seen.names


class _Operators(TorchDispatchMode):
    """Remembers which operators ran."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(str(func))
        return func(*args, **(kwargs or {}))


def write_file(path: Path, data: bytes) -> None:
    """Writes a file at once or not at all, over an older one of that name.

    Raises:
        UserError: it cannot be written.
    """
    try:
        open_folder(path.absolute().parent).write(path.name, data)
    except OSError as error:
        raise UserError(f"'{path}' cannot be written: {error.strerror or error}") from error


def failure(network: Network, how: str, error: BaseException) -> UserError:
    """The error for a network that torch cannot export, in one line.

    Args:
        network: which.
        how: was tried: ``to ONNX``.
        error: what was raised: exporters wrap the cause in pages of advice.
    """
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    cause = lines[0] if lines else type(error).__name__
    blueprint = getattr(network, "blueprint", None)
    name = blueprint.label if blueprint is not None else type(network).__name__
    return UserError(f"network '{name}' cannot be exported {how}: {cause}"[:290])


@contextmanager
def quiet() -> Iterator[None]:
    """Without what exporters log and warn of, which is about their own inside."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript")]
    levels = [one.level for one in loggers]
    for one in loggers:
        one.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for one, level in zip(loggers, levels, strict=True):
            one.setLevel(level)

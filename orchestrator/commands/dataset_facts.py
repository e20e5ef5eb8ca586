"""What `kdsweep datasets NAME` tells of a data set that was read."""

import torch

from orchestrator.commands.printing import rounded
from trainables.data.dataset import Dataset, Images
from trainables.data.notes import listed, shortened
from trainables.data.views import ViewPlan

_MANY = 20
_FIRST = 10
_UNEVEN = 10
"""From this ratio of the largest to the smallest class on, accuracy hides what happens to some."""

_GUESSED_FLIP = (
    "a guess: images are mirrored, which is wrong for digits, letters or arrows; "
    "then set flip: false"
)


def facts_of(dataset: Dataset) -> list[tuple[str, str]]:
    """The lines of the table: what each is, and its value."""
    views = ViewPlan(padding=dataset.crop_padding, flip=dataset.flip, seed=0).number_of_views
    mirrored = "mirrored or not" if dataset.flip else "never mirrored"
    facts = [
        ("classes", _classes(dataset.classes)),
        ("training images", _images(dataset.train, dataset.classes, dataset.sources[0])),
        ("test images", _images(dataset.read_test(), dataset.classes, dataset.sources[1])),
        ("image", _size(dataset)),
        ("views", f"{views:,} of an image: crop padding {dataset.crop_padding}, {mirrored}"),
    ]
    # Folders of somebody's own: nobody has said whether their classes look the same in a mirror.
    if dataset.flip and ":" in dataset.name:
        facts.append(("flip", _GUESSED_FLIP))
    return [
        *facts,
        ("mean, std", f"{rounded(dataset.mean)}, {rounded(dataset.std)}"),
        ("fingerprint", dataset.fingerprint),
    ]


def _classes(classes: tuple[str, ...]) -> str:
    return f"{len(classes):,}: {listed(classes, _MANY if len(classes) <= _MANY else _FIRST)}"


def _images(split: Images, classes: tuple[str, ...], source: str) -> str:
    """``30 of train/: 8 (eel) to 12 (cat) of a class``."""
    counts = torch.bincount(split.labels, minlength=len(classes))
    least, most = int(counts.argmin()), int(counts.argmax())
    low, high = int(counts[least]), int(counts[most])
    spread = f"{low:,} of each class"
    if low < high:
        ends = (f"{n:,} ({shortened(classes[k])})" for n, k in ((low, least), (high, most)))
        spread = " to ".join(ends) + " of a class"
    uneven = ", very uneven: accuracy is that of the large ones" if 0 < low * _UNEVEN < high else ""
    return f"{len(split):,}{f' of {source}' if source else ''}: {spread}{uneven}"


def _size(dataset: Dataset) -> str:
    _, height, width = dataset.image_shape
    shape = "x".join(map(str, dataset.image_shape))
    if not dataset.sizes or set(dataset.sizes) == {(width, height)}:
        return shape
    found = " to ".join(f"{w}x{h}" for w, h in dataset.sizes)
    return f"{shape}, resized from {found}: the largest part of that shape, from the centre"

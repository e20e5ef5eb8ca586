"""What `kdsweep datasets NAME` tells of a data set that was read."""

from orchestrator.commands.printing import rounded
from trainables.data.dataset import SINGLE_LABEL, Dataset, Images
from trainables.data.labels import class_counts
from trainables.data.notes import listed, shortened
from trainables.data.views import ViewPlan

_MANY = 20
_FIRST = 10
_UNEVEN = 10
"""From this ratio of the largest to the smallest class on, accuracy hides what happens to some."""

GUESSED_FLIP = (
    "images are mirrored, which is wrong for digits, letters or arrows; then set flip: false"
)


def facts_of(dataset: Dataset) -> list[tuple[str, str]]:
    """The lines of the table: what each is, and its value."""
    plan = ViewPlan.of(dataset, seed=0)
    crops = (
        f"one of {plan.resized_crops:,} boxes, resized"
        if plan.resized_crops
        else f"crop padding {plan.padding}"
    )
    mirrored = "mirrored or not" if dataset.flip else "never mirrored"
    facts = [] if dataset.task == SINGLE_LABEL else [("task", dataset.task)]
    facts += [
        ("classes", _classes(dataset.classes)),
        ("training images", _images(dataset.train, dataset.classes, dataset.sources[0])),
        ("test images", _images(dataset.read_test(), dataset.classes, dataset.sources[1])),
        ("image", _size(dataset)),
        ("views", f"{plan.number_of_views:,} of an image: {crops}, {mirrored}"),
    ]
    if guesses_flip(dataset):
        facts.append(("flip", f"a guess: {GUESSED_FLIP}"))
    return [
        *facts,
        ("mean, std", f"{rounded(dataset.mean)}, {rounded(dataset.std)}"),
        ("fingerprint", dataset.fingerprint),
    ]


def guesses_flip(dataset: Dataset) -> bool:
    """Whether nobody has said if the classes look the same in a mirror: a folder of one's own."""
    return dataset.flip and ":" in dataset.name


def _classes(classes: tuple[str, ...]) -> str:
    return f"{len(classes):,}: {listed(classes, _MANY if len(classes) <= _MANY else _FIRST)}"


def _images(split: Images, classes: tuple[str, ...], source: str) -> str:
    """``30 of train/: 8 (eel) to 12 (cat) of a class``."""
    counts = class_counts(split.labels, len(classes))
    least, most = int(counts.argmin()), int(counts.argmax())
    low, high = int(counts[least]), int(counts[most])
    spread = f"{low:,} of each class"
    if low < high:
        ends = (f"{n:,} ({shortened(classes[k])})" for n, k in ((low, least), (high, most)))
        spread = " to ".join(ends) + " of a class"
    hides = split.labels.ndim == 1 and 0 < low * _UNEVEN < high
    uneven = ", very uneven: accuracy is that of the large ones" if hides else ""
    return f"{len(split):,}{f' of {source}' if source else ''}: {spread}{uneven}"


def _size(dataset: Dataset) -> str:
    _, height, width = dataset.image_shape
    shape = "x".join(map(str, dataset.image_shape))
    if not dataset.sizes or set(dataset.sizes) == {(width, height)}:
        return shape
    found = " to ".join(f"{w}x{h}" for w, h in dataset.sizes)
    part = "the largest part of that shape, from the centre"
    return f"{shape}, resized from {found}: {'all of it, squeezed' if dataset.squeezed else part}"

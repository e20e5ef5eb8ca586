"""The metrics by name: what they are called, and which end is the better one. No torch here."""

from typing import Literal, NamedTuple


class Metric(NamedTuple):
    """What is known of a metric, whose values are fractions.

    Attributes:
        name: in rows and objectives: ``acc``.
        label: in tables and pictures.
        better: which end is the better one.
    """

    name: str
    label: str
    better: Literal["max", "min"] = "max"


ACC = Metric("acc", "accuracy")
MAP = Metric("map", "mAP")
F1 = Metric("f1", "F1")
IMAGE_AP = Metric("image_ap", "AP per image")

HEADLINES = {metric.name: metric for metric in (ACC, MAP)}
"""Those by which a task of ours selects."""


EXPLAINED = {
    "preservation": "preservation of the teacher's maps",
    "agreement": "agreement with the teacher",
    "localisation": "localisation AUC",
    "pointing": "pointing accuracy",
    "miou": "localisation mIoU",
}
"""What is said of explanations, by what stands behind ``val_`` and ``test_``: fractions, too."""

SHOWN = (
    *("test_score", "val_score", "test_acc", "val_acc"),
    *(f"{part}_{name}" for part in ("test", "val") for name in EXPLAINED),
)
"""Columns that can be shown: the headline, or the accuracy, or what is said of explanations; of the
test set, or of validation."""


def headline(name: object) -> Metric:
    """The headline metric of a row; one of another package is as good as it is large.

    Args:
        name: of the row's ``metric``; missing in rows of failures and of older versions.
    """
    if not isinstance(name, str):
        return ACC
    return HEADLINES.get(name, Metric(name, name))


def shown_as(part: str, name: object) -> str:
    """How pictures and tables call a value: ``validation accuracy``, ``test mAP``.

    Args:
        part: ``val`` or ``test``.
        name: as for `headline`.
    """
    return f"{'validation' if part == 'val' else part} {headline(name).label}"


def column_as(column: str, name: object) -> str:
    """How pictures and tables call one of `SHOWN`.

    Args:
        column: ``test_score``, ``val_preservation``.
        name: as for `headline`.
    """
    part, _, rest = column.partition("_")
    if rest in EXPLAINED:
        return f"{'validation' if part == 'val' else part} {EXPLAINED[rest]}"
    return shown_as(part, name)


def percent(value: float, name: object) -> str:
    """``81.20 %``; a metric that is not the accuracy is named: ``81.20 % mAP``."""
    metric = headline(name)
    return f"{100 * value:.2f} %" + (f" {metric.label}" if metric != ACC else "")

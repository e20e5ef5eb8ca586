"""Whether networks say numbers: whose fault a broken loss is."""

import math
from collections.abc import Iterable

from trainables.errors import Diverged, TeacherBroken
from trainables.models.features import FIELDS
from trainables.models.outputs import Outputs
from trainables.tasks.task import Score


def check_answers(teacher: str, needs: frozenset[str], answers: Iterable[Outputs]) -> None:
    """Looks at what is read of a teacher. Waits for the device: not for a step.

    Args:
        teacher: its name.
        needs: fields of `Outputs`, and keys of its ``features``; the others may be what they will.
        answers: to real images.

    Raises:
        TeacherBroken: an answer holds NaN or an infinite value.
    """
    for outputs in answers:
        for what in sorted(needs):
            found = getattr(outputs, what) if what in FIELDS else outputs.features[what]
            for values in found if isinstance(found, tuple) else (found,):
                bad = values[~values.isfinite()]
                if len(bad):
                    raise TeacherBroken(
                        f"teacher {teacher} says {bad[0].item()} to images of the data "
                        f"({what}): its weights or its input normalisation are broken; "
                        "import it or train it again"
                    )


def check_score(score: Score | None, split: str, epoch: int) -> None:
    """Refuses a student that the last update broke, which no training loss shows any more.

    Raises:
        Diverged: its loss on a split, after so many epochs, is no number.
    """
    if score is not None and not math.isfinite(score.loss):
        raise Diverged(
            f"the {split} loss is {score.loss} after epoch {epoch}; "
            "lower lr or the weights of the terms"
        )

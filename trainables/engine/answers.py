"""Whether networks say numbers: whose fault a broken loss is."""

import math
from collections.abc import Iterable

from torch import Tensor

from trainables.engine.precision import computing
from trainables.errors import Diverged, TeacherBroken
from trainables.tasks.task import Score
from trainables.teachers.teacher import Teacher


def check_answers(
    teacher: Teacher,
    needs: frozenset[str],
    depth: int | None,
    precision: str,
    batches: Iterable[Tensor],
) -> None:
    """Asks a teacher for what is read of it. Waits for the device: not for a step.

    Args:
        teacher: the frozen teacher.
        needs: fields of `Outputs`; the others may be what they will.
        depth: how many stages are read, None for the whole teacher.
        precision: in which the teacher computes.
        batches: real images, uint8 ``[B, C, H, W]``, on the teacher's device.

    Raises:
        TeacherBroken: an answer holds NaN or an infinite value.
    """
    for images in batches:
        with computing(precision, images.device):
            outputs = teacher(images, depth=depth)
        for what in sorted(needs):
            found = getattr(outputs, what)
            for values in found if isinstance(found, tuple) else (found,):
                bad = values[~values.isfinite()]
                if len(bad):
                    raise TeacherBroken(
                        f"teacher {teacher.card.name} says {bad[0].item()} to images of the data "
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

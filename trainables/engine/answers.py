"""Whether a teacher says numbers: whose fault a broken loss is."""

from collections.abc import Iterable

from torch import Tensor

from trainables.engine.precision import computing
from trainables.errors import TeacherBroken
from trainables.methods.method import Method
from trainables.teachers.teacher import Teacher


def check_answers(
    teacher: Teacher, method: Method, precision: str, batches: Iterable[Tensor]
) -> None:
    """Asks a teacher for what a method reads of it. Waits for the device: not for a step.

    Args:
        teacher: the frozen teacher.
        method: what it does not read may be what it will.
        precision: in which the teacher computes.
        batches: real images, uint8 ``[B, C, H, W]``, on the teacher's device.

    Raises:
        TeacherBroken: an answer holds NaN or an infinite value.
    """
    for images in batches:
        with computing(precision, images.device):
            outputs = teacher(images, depth=method.depth)
        for what in sorted(method.needs):
            found = getattr(outputs, what)
            for values in found if isinstance(found, tuple) else (found,):
                bad = values[~values.isfinite()]
                if len(bad):
                    raise TeacherBroken(
                        f"teacher {teacher.card.name} says {bad[0].item()} to images of the data "
                        f"({what}): its weights or its input normalisation are broken; "
                        "import it or train it again"
                    )

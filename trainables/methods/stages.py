"""Which feature map of the student is held against which of the teacher."""

import math

from trainables.errors import UserError
from trainables.models.outputs import Shapes


def pair_stages(student: Shapes, teacher: Shapes) -> list[tuple[int, int]]:
    """Pairs ``(student stage, teacher stage)``, early to deep.

    Networks with equally many stages are paired in order, as the papers do. Otherwise each
    stage of the network with fewer stages takes the other's stage of the nearest resolution
    (the deeper one where two are equally near); no stage is used twice and the order is kept,
    so that none is left without a partner.

    Raises:
        UserError: one of the networks has no spatial feature map.
    """
    ours, theirs = student.stages, teacher.stages
    if not ours or not theirs:
        who = "student" if not ours else "teacher"
        raise UserError(f"method: the {who} has no spatial feature maps to match")
    if len(ours) > len(theirs):
        return [(other, one) for one, other in _align(theirs, ours)]
    return _align(ours, theirs)


def _align(
    few: tuple[tuple[int, int, int], ...], many: tuple[tuple[int, int, int], ...]
) -> list[tuple[int, int]]:
    """The order-keeping assignment of ``few`` into ``many`` with least distance in log2 area."""

    def distance(i: int, j: int) -> float:
        area = [stage[1] * stage[2] for stage in (few[i], many[j])]
        return abs(math.log2(area[0] / area[1]))

    # best[j]: cost and partners of the stages so far when the last one took many[j] or earlier.
    best: list[tuple[float, list[int]]] = [(0.0, [])] * (len(many) + 1)
    for i in range(len(few)):
        row: list[tuple[float, list[int]]] = [(math.inf, [])]
        for j in range(len(many)):
            cost, partners = best[j]
            taken = (cost + distance(i, j), [*partners, j])
            row.append(min(taken, row[-1], key=lambda entry: entry[0]))
        best = row
    return list(enumerate(best[-1][1]))

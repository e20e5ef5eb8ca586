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


def chosen_pairs(key: str, choice: str, student: Shapes, teacher: Shapes) -> list[tuple[int, int]]:
    """Those of the pairs of `pair_stages` that a setting asks for, early to deep.

    Args:
        key: the setting's full name, for the error.
        choice: ``all``, ``last``, or numbers of pairs, from 0, joined by commas: ``0,2``.
        student, teacher: shapes of the networks' outputs.

    Raises:
        UserError: no such pair, a pair named twice, or no numbers at all; it lists the pairs.
    """
    pairs = pair_stages(student, teacher)
    if choice == "all":
        return pairs
    if choice == "last":
        return pairs[-1:]
    numbers = [part.strip() for part in choice.split(",")]
    known = {str(number): pair for number, pair in enumerate(pairs)}
    if len(set(numbers)) < len(numbers) or not known.keys() >= set(numbers):
        every = (
            f"{number} ({_size(student.stages[i])} and {_size(teacher.stages[j])})"
            for number, (i, j) in known.items()
        )
        raise UserError(
            f"{key}: expected all, last, or some of the pairs of stages, each once and joined by "
            f"commas, got {choice!r}; student's and teacher's pairs: {', '.join(every)}"
        )
    return [pair for number, pair in known.items() if number in numbers]


def _size(stage: tuple[int, int, int]) -> str:
    return "x".join(map(str, stage))


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

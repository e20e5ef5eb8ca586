"""Whether the parts of a study fit together, as far as their form tells."""

from typing import TYPE_CHECKING

from search_spaces.pairs import PAIR
from search_spaces.roles import check_named
from search_spaces.teacher import UNNAMED, TeacherSpec
from trainables.objectives import check_objective
from trainables.optimizers.registry import PREFIX

if TYPE_CHECKING:
    from search_spaces.spec import Study


def decides_first(key: str) -> int:
    """Pair, method and compression decide which other dimensions exist; the optimizer, which of
    its own settings do. These come last, so that nothing else is drawn in another order."""
    return {PAIR: 0, "method": 1, "compression": 2}.get(key, 4 if key.startswith(PREFIX) else 3)


def check_teachers(study: "Study") -> None:
    """Whether every trial has its teacher, and further ones beside it.

    Raises:
        ValueError: it has none, or two places say which; by key.
    """
    check_named(study)
    if not study.pairs:
        if study.teacher is not None and not study.teacher.named:
            raise ValueError(f"teacher: {UNNAMED}")
        return
    if study.teacher is not None:
        for key in TeacherSpec.model_fields:
            if key != "weights" and getattr(study.teacher, key) is not None:
                raise ValueError(f"teacher.{key}: with pairs, every pair names its teacher")
    for name, pair in study.pairs.items():
        if pair.student is None and "student" not in {**study.fixed, **study.dimensions}:
            raise ValueError(f"pairs.{name}.student: expected the name of a model")


def check_form(study: "Study") -> None:
    """Whether objectives, constraints, dimensions and all that names them speak of what there is.

    Raises:
        ValueError: one does not; by key.
    """
    for key, name in study.judged.items():
        if "teacher" in check_objective(name).needs and not study.all_teachers():
            raise ValueError(f"{key}: needs a teacher")
    for key in study.dimensions:
        if key in study.fixed:
            raise ValueError(f"{key}: is both fixed and a dimension")
        for name, pair in study.pairs.items():
            if key in pair.settings:
                raise ValueError(f"pairs.{name}.{key}: is a dimension, too")
    for key in study.cover:
        if key not in study.space or study.space[key].choices is None:
            raise ValueError(f"cover: {key} is not a dimension with listed choices")
    for key, dimension in study.dimensions.items():
        if study.sampler == "grid" and dimension.choices is None and dimension.step is None:
            raise ValueError(f"dimensions.{key}: a grid needs choices, or a range with step")
    for point in study.points:
        for key, value in point.items():
            if key not in study.space:
                raise ValueError(f"points: {key} is not a dimension")
            if value not in study.space[key]:
                raise ValueError(f"points: {key} {value!r} is not in its dimension")
    given = set(study.fixed).union(*(pair.settings for pair in study.pairs.values()))
    for key in sorted(study.space, key=decides_first):
        for other in study.space[key].when:
            if other not in given:
                raise ValueError(
                    f"dimensions.{key}.when: {other} is neither fixed nor a dimension before it"
                )
        given.add(key)

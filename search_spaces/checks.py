"""What can be wrong in a study although every key of it is well formed."""

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from search_spaces.dimension import Dimension, Value, applies, check_known, setting_of
from search_spaces.pairs import PAIR
from search_spaces.roles import check_read, check_roles
from search_spaces.spec import OF_STUDY, Study
from search_spaces.teacher import check_distinct, check_shared
from trainables.attribution.registry import explainer_of, parse_explainers
from trainables.compression.registry import CHOICES, PARTS, canonical_chain
from trainables.config import settings_with
from trainables.errors import UserError
from trainables.methods.registry import OTHERS, PLAIN, canonical_method, method_settings
from trainables.objectives import check_objective
from trainables.optimizers.registry import DEFAULT, PREFIX
from trainables.trial_settings import MAX_SEED, NO_EXPLAINERS


def check_study(study: Study) -> None:
    """Checks every setting by itself, then builds the config of every corner of the space.

    Raises:
        UserError: an unknown key or method, or a value out of its range, by name.
    """
    for block, keys in (("fixed", study.fixed), ("dimensions", study.dimensions)):
        for key in keys:
            if key in OF_STUDY:
                raise UserError(f"{block}.{key}: {OF_STUDY[key]}")
            check_known(key)
    for key, dimension in study.dimensions.items():
        if key in settings_with("measurement") or explainer_of(key):
            raise UserError(f"dimensions.{key}: decides no result; set it by fixed.{key}")
        kind = setting_of(key)
        for value in dimension.ends():
            kind.check(f"dimensions.{key}", value)
        if kind.kind is int and dimension.step and not dimension.step.is_integer():
            raise UserError(
                f"dimensions.{key}.step: expected a whole number, got {dimension.step:.12g}"
            )
    for key, fixed in study.fixed.items():
        if fixed is not None:
            setting_of(key).check(f"fixed.{key}", fixed)
    for name, pair in study.pairs.items():
        pair.check(f"pairs.{name}", OF_STUDY)
    _check_seeds(study)
    if study.published:
        try:
            study.published.check()
        except UserError as error:
            raise UserError(f"study: published: {error}") from error
    if study.pairs and study.teacher:
        check_shared(study.teacher.own, "teacher")
    check_distinct(study.all_teachers(), study.dataset, study.shared_by_teachers)
    check_roles(study)
    for chosen in study.pairs or [None]:
        try:
            _check_corners(study, {PAIR: chosen} if chosen else {})
        except UserError as error:
            raise UserError(f"pairs.{chosen}: {error}" if chosen else str(error)) from error
    _check_peers(study)
    _check_explained(study)


def _check_seeds(study: Study) -> None:
    """A config has its own seeds, and those of its repeats follow them."""
    blocks = [study.fixed, *(pair.settings for pair in study.pairs.values())]
    for key in settings_with("seed"):
        given = [block[key] for block in blocks if block.get(key) is not None]
        given += study.dimensions[key].ends() if key in study.dimensions else []
        greatest = max((int(value) for value in given), default=0)
        if greatest + study.repeats - 1 > MAX_SEED:
            raise UserError(
                f"{key}: {greatest} with repeats: {study.repeats} reaches beyond the greatest "
                f"seed, {MAX_SEED}"
            )


def _check_peers(study: Study) -> None:
    """What peers measure is nothing to optimise where no method has any."""
    corners: list[dict[str, Value]] = [{PAIR: pair} for pair in study.pairs] or [{}]
    methods = {name for corner in corners for name in _values_of(study, "method", PLAIN, corner)}
    if any(key.endswith(".peers") for name in methods for key in method_settings(name)):
        return
    for key, name in study.judged.items():
        if "peers" in check_objective(name).needs:
            raise UserError(f"{key}: needs a method with peers, such as dml")


def _check_explained(study: Study) -> None:
    """What is said of maps is nothing to optimise where nobody explains anything."""
    for key, name in study.judged.items():
        for pair in study.pairs or [None]:
            text = str(study.shared(pair).get("explainers") or NO_EXPLAINERS)
            if "explainers" in check_objective(name).needs and not parse_explainers(text):
                at = f"pairs.{pair}" if pair else "fixed"
                raise UserError(f"{key}: needs explainers: add {at}.explainers, such as grad_cam")


def _check_corners(study: Study, corner: dict[str, Value]) -> None:
    for kind in _kinds(study, corner):
        chosen = {**corner, **{key: value for key, value in kind.items() if value is not None}}
        drawn = study.space.corner(chosen)
        study.config(drawn)
        # That some values are wrong shows only in a config.
        for key in [key for key in drawn if key not in chosen]:
            for value in study.space[key].ends()[1:]:
                study.config(study.space.corner({**chosen, key: value}))


def _kinds(study: Study, corner: Mapping[str, Value]) -> Iterator[dict[str, Any]]:
    """Every method with every compression and optimizer; no compression where none is named."""
    defaults = {"method": PLAIN, "compression": None, "optimizer": DEFAULT}
    values = [_values_of(study, key, default, corner) for key, default in defaults.items()]
    for kind in itertools.product(*values):
        yield dict(zip(defaults, kind, strict=True))


def _values_of(
    study: Study, key: str, default: Value | None, corner: Mapping[str, Value]
) -> list[Any]:
    if key in study.dimensions:
        return study.dimensions[key].ends()
    return [study.shared(corner.get(PAIR)).get(key, default)]


# What somebody who writes a study meant otherwise


def check_written(study: Study) -> None:
    """Checks what a study that somebody writes can say in vain.

    A sweep that an older version began may have such a study, and goes on with it.

    Args:
        study: one that `check_study` has passed.

    Raises:
        UserError: a value stands twice in a list, a range has no numbers or never reaches its
            end, or a condition never holds.
    """
    for key, dimension in study.dimensions.items():
        where = f"dimensions.{key}"
        if dimension.choices is not None:
            _check_once(where, key, dimension.choices)
        else:
            _check_range(where, key, dimension)
        for other, allowed in dimension.when.items():
            _check_once(f"{where}.when.{other}", other, allowed)
            _check_possible(f"{where}.when.{other}", allowed, study.space.get(other))
    _check_once("cover", "", study.cover)
    points = [
        sorted((k, _meant("points", k, v)) for k, v in point.items()) for point in study.points
    ]
    for number, point in enumerate(points):
        if point in points[:number]:
            raise UserError(
                f"points: number {number + 1} is number {points.index(point) + 1} again; leave one"
            )


def check_effective(study: Study, keys: Iterable[str]) -> None:
    """Refuses settings that somebody gives and no trial has, and teachers that none reads.

    Args:
        study: one that `check_study` has passed.
        keys: of its fixed settings, its dimensions, its further teachers, or its own fields.

    Raises:
        UserError: no trial's method, compression or optimizer has one of them.
    """
    trials = list(_kinds_of_trials(study))
    for key in keys:
        given = study.fixed.get(key) is not None or key in study.dimensions
        if given and not any(applies(key, trial) for trial in trials):
            raise UserError(f"{key}: has no effect {_missed(key, trials)}")
        if key.startswith(OTHERS):
            check_read(study, key)


def _kinds_of_trials(study: Study) -> Iterator[dict[str, Any]]:
    """What decides which settings a trial has, of every kind of trial."""
    for pair in study.pairs or [None]:
        corner: dict[str, Value] = {PAIR: pair} if pair else {}
        known = {**dict.fromkeys(study.dimensions), **study.shared(pair)}
        for kind in _kinds(study, corner):
            yield {**known, **kind}


def _missed(key: str, trials: Iterable[Mapping[str, Any]]) -> str:
    part = key.partition(".")[0]
    asked = "compression" if part in PARTS else "method"
    asked = "optimizer" if key.startswith(PREFIX) else asked
    asked = "explainers" if explainer_of(key) else asked
    listed = sorted({str(trial[asked]) for trial in trials if trial.get(asked) is not None})
    if asked == "explainers" and not listed:
        return "without explainers"
    text = f"with {asked} {', '.join(listed)}"[:150]
    if asked == "compression" and part not in CHOICES and listed:
        text += f"; for both of them write compression: {listed[0]}+{part}"
    return text


def _check_once(where: str, key: str, values: Iterable[Value]) -> None:
    known: dict[Any, Value] = {}
    for value in values:
        meant = _meant(where, key, value)
        if meant in known:
            twice = f"{value!r} stands twice"
            if repr(known[meant]) != repr(value):
                twice = f"{known[meant]!r} and {value!r} are one value"
            raise UserError(f"{where}: {twice}; leave one")
        known[meant] = value


def _meant(where: str, key: str, value: Value) -> Any:
    """A setting's value as configs have it; networks and methods by their one name."""
    if key in ("", PAIR):
        return value
    from trainables.models.registry import FAMILIES, canonical_name

    meant = setting_of(key).check(where, value)
    if key == "method":
        return canonical_method(str(meant))
    if key == "compression":
        return canonical_chain(str(meant))
    if key == "student" and meant not in FAMILIES:
        return canonical_name(str(meant))
    return meant


def _check_range(where: str, key: str, dimension: Dimension) -> None:
    if setting_of(key).kind not in (int, float):
        raise UserError(f"{where}: is no number; expected a list of choices")
    if dimension.high != dimension.last:
        raise UserError(
            f"{where}: steps of {dimension.step:.12g} from {dimension.low:.12g} end at "
            f"{dimension.last:.12g} and never reach high, {dimension.high:.12g}; "
            f"set high: {dimension.last:.12g}"
        )


def _check_possible(where: str, allowed: Iterable[Value], dimension: Dimension | None) -> None:
    if dimension is None or dimension.choices is None:
        return  # a setting that is fixed, perhaps from the shell, or a range
    for value in allowed:
        if value not in dimension.choices:
            listed = ", ".join(map(str, dimension.choices))
            raise UserError(f"{where}: {value!r} is none of its choices: {listed}"[:280])

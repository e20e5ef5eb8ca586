"""Dimension: one thing to search, and the setting behind its key."""

import functools
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from trainables.attribution.registry import explainer_of, explainer_settings, parse_explainers
from trainables.compression.registry import PARTS, chain_settings, part_settings
from trainables.config import TrialConfig
from trainables.errors import UserError, unknown
from trainables.methods.registry import (
    PLAIN,
    TEACHER,
    method_settings,
    term_class,
    term_names,
    term_settings,
)
from trainables.optimizers.registry import DEFAULT, PREFIX, all_rule_settings, rule_settings
from trainables.settings import Setting, settings_of
from trainables.trial_settings import NO_EXPLAINERS

Value = bool | int | float | str

MAX_GRID = 100_000
"""So many points has a grid at most."""


class Strict(BaseModel):
    """A record that knows all of its keys and does not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Dimension(Strict):
    """One thing to search: listed choices, or a range of numbers.

    In YAML a plain list stands for ``choices``, and nothing, or ``when`` alone, for the range that
    its setting is worth searching in.
    """

    choices: list[Value] | None = Field(None, min_length=1, description="the values to choose from")
    low: float | None = Field(None, allow_inf_nan=False, description="least value of a range")
    high: float | None = Field(
        None, allow_inf_nan=False, description="greatest value of a range, included"
    )
    log: bool = Field(False, description="search the range on a log scale")
    step: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="distance between the values of a range"
    )
    when: dict[str, list[Value]] = Field(
        default_factory=dict,
        description="only in trials in which these keys have one of these values",
    )

    @model_validator(mode="after")
    def _complete(self) -> "Dimension":
        ranged = self.low is not None and self.high is not None
        if ranged == (self.choices is not None):
            raise ValueError("expected a list of choices, or low and high")
        if ranged:
            assert self.low is not None
            assert self.high is not None
            if self.low > self.high:
                raise ValueError(f"low {self.low:.12g} is above high {self.high:.12g}")
            if self.log and self.low <= 0:
                raise ValueError("a log range must start above 0")
            if self.log and self.step is not None:
                raise ValueError("a log range has no step")
        return self

    def __contains__(self, value: Value) -> bool:
        if self.choices is not None:
            return value in self.choices
        assert self.low is not None
        assert self.high is not None
        if isinstance(value, str | bool) or not self.low <= value <= self.high:
            return False
        steps = (value - self.low) / self.step if self.step else 0.0
        return abs(steps - round(steps)) < 1e-8

    def ends(self) -> list[Value]:
        """Values that stand for the dimension when it is checked: choices, or both ends."""
        if self.choices is not None:
            return self.choices
        assert self.low is not None
        return [self.low, self.last]

    @property
    def steps(self) -> int:
        """How many steps of a range with ``step`` lead from ``low`` to its last value."""
        assert self.low is not None
        assert self.high is not None
        assert self.step is not None
        return int((_exact(self.high) - _exact(self.low)) // _exact(self.step))

    @property
    def last(self) -> float:
        """The greatest value of a range: ``high``, or the last step that is not above it."""
        assert self.high is not None
        return self.high if self.step is None else self.at(self.steps)

    def at(self, index: int) -> float:
        """A value of a range with ``step``, as one would write it: 0.3, and not 3 * 0.1.

        Args:
            index: from 0 to `steps`.
        """
        assert self.low is not None
        assert self.step is not None
        return float(_exact(self.low) + index * _exact(self.step))

    def rounded(self, value: float) -> float:
        """The value of a range with ``step`` that is next to a number."""
        assert self.low is not None
        assert self.step is not None
        return self.at(min(max(round((value - self.low) / self.step), 0), self.steps))


def _exact(number: float) -> Decimal:
    return Decimal(str(number))


def setting_of(key: str) -> Setting:
    """The setting behind a key of a study.

    A trial's, a term's (``kd.alpha``), a part's of the compression (``factor``), the update rule's
    (``optimizer.beta1``), an explainer's (``grad_cam.layer``), or a bare name. That stands
    for the setting of every term that has it; the first gives the type.

    Raises:
        UserError: no such key.
    """
    check_known(key)
    if name := explainer_of(key):
        return explainer_settings(name)[key]
    return settings_of(TrialConfig).get(key) or known_settings()[key]


def written_out(key: str, written: Any) -> Any:
    """A dimension as it stands in YAML; without values it has the range worth searching.

    What is no dimension, or has no such range, is left for others to refuse.
    """
    given = {} if written is None else written
    if not isinstance(given, Mapping) or given.keys() - {"when"}:
        return written
    setting = known_settings().get(key)
    if setting is None or setting.search is None:
        return written
    low, high = setting.search
    return {"low": low, "high": high, "log": setting.log, **given}


def grid_values(dimension: Dimension, key: str) -> list[Value]:
    """The values that a grid tries.

    Raises:
        UserError: they are too many.
    """
    if dimension.choices is not None:
        return dimension.choices
    if dimension.steps >= MAX_GRID:
        raise UserError(f"dimensions.{key}: has more than {MAX_GRID:,} values")
    whole = setting_of(key).kind is int
    values = [dimension.at(index) for index in range(dimension.steps + 1)]
    return [int(value) if whole else value for value in values]


def check_known(key: str, block: str = "") -> None:
    """Refuses a key that no trial, term, part of a compression, update rule or explainer has.

    Args:
        key: what the user wrote.
        block: where, if that has to be said.

    Raises:
        UserError: with the nearest keys that there are.
    """
    if key in settings_of(TrialConfig):
        return
    name = explainer_of(key)
    known = explainer_settings(name) if name else known_settings()
    if key not in known:
        raise unknown(f"key in {block}" if block else "key", key, known)


def known_settings() -> dict[str, Setting]:
    """Every setting that a study can give: of trials, terms, parts of compressions, update rules.

    By full key, and by bare name those of the first term or part that has it; the trial's own come
    before.
    """
    trial = settings_of(TrialConfig)
    chain = {key: found for name in PARTS for key, found in part_settings(name).items()}
    rules = all_rule_settings()
    return {**trial, **_with_bare(chain), **settings_of_terms(), **chain, **rules, **trial}


def settings_of_terms() -> dict[str, Setting]:
    """The settings of all terms by full key, and by bare name those of the first."""
    return _with_bare(
        {key: found for name in term_names() for key, found in term_settings(name).items()}
    )


def _with_bare(full: Mapping[str, Setting]) -> dict[str, Setting]:
    found = dict(full)
    for key, setting in full.items():
        found.setdefault(key.rpartition(".")[2], setting)
    return found


@functools.cache
def term_keys(method: str) -> frozenset[str]:
    """The keys of a method's settings, full and bare.

    Raises:
        UserError: no such method.
    """
    return frozenset(_with_bare(method_settings(method)))


@functools.cache
def chooses_teacher(key: str) -> bool:
    """Whether a key says which of several teachers a term reads: ``at.teacher``."""
    name, _, short = key.partition(".")
    if short != TEACHER or name not in term_names():
        return False
    # A term of another package may call something of its own so.
    return key in term_settings(name) and TEACHER not in settings_of(term_class(name).Config)


@functools.cache
def role_keys(method: str) -> tuple[str, ...]:
    """The keys by which the terms of a method say which teacher they read.

    Raises:
        UserError: no such method.
    """
    return tuple(filter(chooses_teacher, method_settings(method)))


@functools.cache
def chain_keys(compression: str) -> frozenset[str]:
    """The keys of a compression's settings, full and bare.

    Raises:
        UserError: no such compression.
    """
    return frozenset(_with_bare(chain_settings(compression)))


def applies(key: str, values: Mapping[str, Any]) -> bool:
    """Whether a key has an effect in a trial, by its method, compression, optimizer, explainers.

    Args:
        key: one that there is.
        values: of the trial, as far as they are known. Where they say no compression, each amount
            among them may imply it.
    """
    if key in settings_of(TrialConfig):
        return True
    if name := explainer_of(key):
        return name in parse_explainers(str(values.get("explainers") or NO_EXPLAINERS))
    if key.startswith(PREFIX):
        return key in rule_settings(str(values.get("optimizer") or DEFAULT))
    method, compression = values.get("method"), values.get("compression")
    if key in term_keys(PLAIN if method is None else str(method)):
        return True
    chains = [name for name in values if name in PARTS] if compression is None else [compression]
    return any(key in chain_keys(str(chain)) for chain in chains)


def bare_name(key: str) -> str:
    """The name that stands for a full key, too; empty where there is none."""
    return "" if key.startswith(PREFIX) or explainer_of(key) else key.partition(".")[2]


def layered(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Settings in layers, of which a later one wins: its bare names also over full keys.

    In one layer ``kd.temperature`` wins over ``temperature``; but a ``temperature`` that stands
    in a later layer is meant to replace it.
    """
    # A trial's momentum has nothing to do with crd.momentum.
    own = {*settings_of(TrialConfig), *PARTS}
    values: dict[str, Any] = {}
    for layer in layers:
        bare = {key for key in layer if key not in own}
        values = {key: v for key, v in values.items() if bare_name(key) not in bare}
        values |= layer
    return values

"""TrialConfig: everything that decides what one trial does, as a flat record of scalars."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from trainables.attribution.registry import (
    parse_explainers,
    resolve_explainer_settings,
    resolve_explainers,
)
from trainables.compression.registry import canonical_chain, implied_chain, resolve_chain
from trainables.errors import UserError
from trainables.keys import parted
from trainables.methods.registry import (
    OTHERS,
    canonical_method,
    check_roles,
    needs_teacher,
    resolve_settings,
    without_roles,
)
from trainables.optimizers.registry import resolve_rule
from trainables.runtimes.registry import RUNTIMES
from trainables.settings import Role, Scalar, read, setting, settings_of
from trainables.trial_settings import (
    MAX_SEED,
    NO_EXPLAINERS,
    Computing,
    Images,
    Measuring,
    Networks,
    Optimisation,
)


@dataclass(frozen=True, kw_only=True)
class TrialConfig(Measuring, Computing, Images, Optimisation, Networks):
    """One student trained once.

    Besides the fields, of which those of the last base come first, the settings of the method's
    terms, of the compression's parts, of the update rule and of the explainers belong to it:
    ``terms``, ``chain``, ``rule`` and ``explaining`` hold them by full key (``kd.temperature``,
    ``factor``, ``optimizer.beta1``, ``grad_cam.layer``), complete and checked. ``teachers`` holds
    the names of the further teachers that the method reads, by role; their full keys are
    ``teachers.ROLE``.
    """

    seed: int = setting(
        0, "initialisation and order of the images", at_least=0, at_most=MAX_SEED, role="seed"
    )
    view_seed: int = setting(
        0,
        "augmented views; shared by the configs of a repeat",
        at_least=0,
        at_most=MAX_SEED,
        role="seed",
    )
    stage: str = setting(
        "search", "search, or confirm a choice", choices=("search", "confirm"), role="stage"
    )

    terms: Mapping[str, Scalar] = field(default_factory=dict)
    chain: Mapping[str, Scalar] = field(default_factory=dict)
    rule: Mapping[str, Scalar] = field(default_factory=dict)
    explaining: Mapping[str, Scalar] = field(default_factory=dict)
    teachers: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._settle("method", canonical_method(self.method))
        self._settle("terms", resolve_settings(self.method, self.terms))
        if needs_teacher(self.method) and self.teacher is None:
            raise UserError(f"teacher: method '{self.method}' needs one")
        self._settle("teachers", dict(sorted(self.teachers.items())))
        check_roles(self.method, self.terms, self.teachers)
        if not self.teachers:  # which of one teacher a term reads is nothing to say
            self._settle("terms", without_roles(self.method, self.terms))
        self._settle("compression", canonical_chain(self.compression))
        self._settle("chain", resolve_chain(self.compression, self.chain))
        self._settle("rule", resolve_rule(self.optimizer, self.rule))
        self._settle("explainers", "+".join(parse_explainers(self.explainers)) or NO_EXPLAINERS)
        self._settle("explaining", resolve_explainer_settings(self.explainers, self.explaining))
        for key in self.chain:
            if key in self.terms or key in settings_of(TrialConfig):
                raise UserError(
                    f"compression '{self.compression}': its '{key}' is another setting's name, too"
                )
        self.check_start()
        if self.resized_crops and self.crop_padding:
            raise UserError(
                f"resized_crops: {self.resized_crops} beside crop_padding: {self.crop_padding}; "
                "expected one kind of crop: leave one of them out"
            )
        self.milestone_epochs()
        for name in self.runtimes:
            RUNTIMES.check(name)

    def _settle(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    @classmethod
    def from_mapping(cls, values: Mapping[str, object]) -> "TrialConfig":
        """Reads a flat mapping, as in a study's ``fixed`` block or a row's ``config``.

        ``compression`` may be left out where exactly one amount is given. Settings of terms that
        the method does not use, of parts that the compression does not have, of other update rules
        and of other explainers are refused: a config says nothing that has no effect. An amount
        that is None counts as absent.

        Raises:
            UserError: an unknown key, a value out of its range, a missing amount, by name.
        """
        own = settings_of(TrialConfig)
        rest = {key: value for key, value in values.items() if key not in own}
        checked = read(cls, {key: value for key, value in values.items() if key in own})
        if "compression" not in checked:
            checked["compression"] = implied_chain(rest)
        names = ("method", "compression", "optimizer", "explainers")
        chosen = {key: str(checked.get(key, own[key].default)) for key in names}
        others = {key: str(rest.pop(key)) for key in list(rest) if key.startswith(OTHERS)}
        teachers = {key.removeprefix(OTHERS): name for key, name in others.items()}
        return cls(**checked, **parted(rest, own, **chosen), teachers=teachers)

    @property
    def explainer_configs(self) -> dict[str, Any]:
        """The configs of the explainers by name."""
        return resolve_explainers(self.explainers, self.explaining)

    def to_dict(self) -> dict[str, Scalar]:
        """A flat dict of scalars that `from_mapping` reads back."""
        values = {
            entry.name: getattr(self, entry.name)
            for entry in dataclasses.fields(self)
            if entry.name not in ("terms", "chain", "rule", "explaining", "teachers")
        }
        values |= {f"{OTHERS}{role}": name for role, name in self.teachers.items()}
        return {**values, **self.terms, **self.chain, **self.rule, **self.explaining}

    def to_json(self) -> str:
        """Canonical JSON of `to_dict`: sorted keys, no white space."""
        return json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))

    def replace(self, **changes: Any) -> "TrialConfig":
        """A copy with some keys changed, checked anew."""
        return TrialConfig.from_mapping({**self.to_dict(), **changes})


def settings_with(*roles: Role) -> list[str]:
    """The trial's own settings that have one of these roles."""
    return [key for key, one in settings_of(TrialConfig).items() if one.role in roles]

"""The update rules by name, and their settings.

A new one is one file in this folder and one line in `OPTIMIZERS`. Other packages add rules under
the entry-point group ``kdsweep.optimizers``. Names are known without torch; a rule's file is
loaded when somebody asks for its settings.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from trainables.errors import UserError
from trainables.registry import Registry
from trainables.settings import Scalar, Setting, settings_of

DEFAULT = "sgd"
"""The rule of a trial that names none."""

PREFIX = "optimizer."
"""What stands before a rule's own settings: ``optimizer.beta1``."""

OPTIMIZERS: Registry[Callable[..., Any]] = Registry(
    "optimizer",
    "kdsweep.optimizers",
    {
        "sgd": "trainables.optimizers.sgd:sgd",
        "adam": "trainables.optimizers.adam:Adam",
        "adamw": "trainables.optimizers.adamw:AdamW",
        "muon": "trainables.optimizers.muon:Muon",
        "shampoo": "trainables.optimizers.shampoo:Shampoo",
        "soap": "trainables.optimizers.soap:SOAP",
    },
)
"""A `trainables.optimizers.rule.Rule`; or, without settings of its own, what makes an optimizer
from a trial's config, its weights and the device that they are on. Weights without a gradient are
left alone, and so is their state. Every group's ``lr`` is set before every step: to the trial's,
times the group's ``lr_ratio`` where it has one."""


def rule_settings(name: str) -> dict[str, Setting]:
    """Every setting of a rule by its full key, for example ``optimizer.beta1``.

    Raises:
        UserError: no such rule.
    """
    kind = getattr(OPTIMIZERS[name], "Config", None)
    return {PREFIX + key: found for key, found in settings_of(kind).items()} if kind else {}


def all_rule_settings() -> dict[str, Setting]:
    """The settings of all rules by full key: a value is good that is good for one of them."""
    found: dict[str, Setting] = {}
    for name in OPTIMIZERS:
        for key, setting in rule_settings(name).items():
            found[key] = _either(found[key], setting) if key in found else setting
    return found


def _either(one: Setting, other: Setting) -> Setting:
    """The first one, with what the other allows as well."""

    def loose(bound: str, choose: Callable[[float, float], float]) -> float | None:
        low, high = getattr(one, bound), getattr(other, bound)
        return None if low is None or high is None else choose(low, high)

    lists = bool(one.choices and other.choices)
    same = (one.search, one.log) == (other.search, other.log)
    return dataclasses.replace(
        one,
        optional=one.optional or other.optional,
        above=loose("above", min),
        at_least=loose("at_least", min),
        at_most=loose("at_most", max),
        choices=tuple(dict.fromkeys([*one.choices, *other.choices])) if lists else (),
        search=one.search if same else None,
    )


def resolve_rule(name: str, values: Mapping[str, object]) -> dict[str, Scalar]:
    """The settings of a rule by full key, complete and checked.

    Args:
        name: of the rule.
        values: by full key.

    Raises:
        UserError: a key that the rule does not have, or a value out of its range.
    """
    settings = rule_settings(name)
    for key in values:
        if key not in settings:
            raise UserError(f"{key}: has no effect with optimizer {name}")
    return {
        key: found.check(key, values.get(key, found.default)) for key, found in settings.items()
    }


def config_of(name: str, settings: Mapping[str, Scalar]) -> Any:
    """The config of a rule that has one.

    Args:
        name: of the rule.
        settings: as `resolve_rule` returns them.
    """
    kind: Any = OPTIMIZERS[name]
    return kind.Config(**{key.removeprefix(PREFIX): value for key, value in settings.items()})

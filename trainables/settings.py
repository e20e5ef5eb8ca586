"""Typed, documented, range-checked fields: every config of kdsweep is made of them.

A config class is a frozen dataclass whose fields are made with `setting`. The same
record serves validation (`read`), the help of ``kdsweep methods`` and the default
search range of a study's dimension.
"""

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypedDict, Unpack

from trainables.errors import UserError, nearest, unknown
from trainables.registry import Registry

Scalar = str | int | float | bool | None
Role = Literal["recipe", "words", "teacher", "seed", "split", "stage", "place", "measurement"]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """What is known of one field.

    Attributes:
        kind: ``int``, ``float``, ``bool`` or ``str``.
        optional: whether ``None`` is a value.
        default: the paper's or the field's usual value.
        help: one line, with the unit.
        above, at_least, at_most: bounds of a number; ``None`` where there is none.
        choices: the only values allowed, or the names of a registry; empty where any is.
        search: ``(low, high)``, the range worth searching; ``None`` where there is none.
        log: whether that range is searched on a log scale.
        weight: whether it is the weight of a loss; rows list those one by one.
        role: what it has to do with the result. A setting of the ``recipe`` decides it; so does
            one of the ``teacher`` where the method reads one, a ``seed``, and the ``split``, which
            a confirmation has for itself. ``words`` ask for data and networks: what they lead to
            decides. The ``stage`` is what the trial is for, the ``place`` where it computes, a
            ``measurement`` what else is told of what came out.
        implied: of a setting that came later, the values of rows from before it: with these,
            `trainables.experiment.config_key` is what it was without the setting.
    """

    kind: type
    optional: bool
    default: Scalar
    help: str
    above: float | None = None
    at_least: float | None = None
    at_most: float | None = None
    choices: tuple[Scalar, ...] | Registry[Any] = ()
    search: tuple[float, float] | None = None
    log: bool = False
    weight: bool = False
    role: Role = "recipe"
    implied: tuple[Scalar, ...] = ()

    def expected(self) -> str:
        """What a value must be, in words: ``a number > 0``."""
        if self.choices:
            return "one of " + ", ".join(str(choice) for choice in self.choices)
        words = {int: "a whole number", float: "a number", bool: "true or false", str: "a name"}
        text = words[self.kind]
        if self.above is not None:
            text += f" > {self.above:.12g}"
        if self.at_least is not None and self.at_most is not None:
            text += f" from {self.at_least:.12g} to {self.at_most:.12g}"
        elif self.at_least is not None:
            text += f" >= {self.at_least:.12g}"
        elif self.at_most is not None:
            text += f"{' and' if self.above is not None else ''} <= {self.at_most:.12g}"
        return text

    def check(self, name: str, value: object) -> Scalar:
        """The value in this setting's type.

        Raises:
            UserError: naming ``name``, what was expected and what was given.
        """
        if value is None and self.optional:
            return None
        converted = _convert(self.kind, value)
        if converted is None or not self._inside(converted):
            named = isinstance(self.choices, Registry)
            near = nearest(str(value), map(str, self.choices)) if named else ""
            text = f"{name}: expected {self.expected()}, got {value!r}"
            raise UserError(f"{text}; {near}" if near else text)
        return converted

    def _inside(self, value: Scalar) -> bool:
        if self.choices:
            return value in self.choices
        if isinstance(value, str | bool) or value is None:
            return True
        return (
            math.isfinite(value)
            and (self.above is None or value > self.above)
            and (self.at_least is None or value >= self.at_least)
            and (self.at_most is None or value <= self.at_most)
        )


class Facts(TypedDict, total=False):
    """What may be said of a field besides its default and its help: see `Setting`."""

    above: float
    at_least: float
    at_most: float
    choices: tuple[Scalar, ...] | Registry[Any]
    search: tuple[float, float]
    log: bool
    weight: bool
    role: Role
    implied: tuple[Scalar, ...]


def setting(default: Scalar, help: str, **facts: Unpack[Facts]) -> Any:
    """A dataclass field that carries a `Setting`; arguments as its attributes."""
    return dataclasses.field(default=default, metadata={"help": help, **facts})


@functools.cache
def settings_of(config_class: type) -> Mapping[str, Setting]:
    """The settings of a config class, in the order of its fields."""
    hints = typing.get_type_hints(config_class)
    found = {}
    for field in dataclasses.fields(config_class):
        if field.metadata:
            kind, optional = _plain_type(hints[field.name])
            default: Any = field.default
            found[field.name] = Setting(
                kind=kind, optional=optional, default=default, **field.metadata
            )
    return types.MappingProxyType(found)


def read(config_class: type, values: Mapping[str, object], *, prefix: str = "") -> dict[str, Any]:
    """Checks ``values`` against the settings of a class.

    Args:
        config_class: a dataclass made of `setting` fields.
        values: what the user gave; missing fields keep their default.
        prefix: stands before the key in an error, for example ``"kd."``.

    Returns:
        Keyword arguments for ``config_class``.

    Raises:
        UserError: an unknown key or a value out of its range, by name.
    """
    settings = settings_of(config_class)
    for key in values:
        if key not in settings:
            raise unknown("key", prefix + key, [prefix + name for name in settings])
    return {key: settings[key].check(prefix + key, value) for key, value in values.items()}


def _plain_type(hint: Any) -> tuple[type, bool]:
    if isinstance(hint, types.UnionType):
        (kind,) = [member for member in hint.__args__ if member is not type(None)]
        return kind, True
    return hint, False


def _convert(kind: type, value: object) -> Scalar:
    """``value`` as ``kind``, or None where that would change its meaning."""
    if kind is bool:
        return value if isinstance(value, bool) else None
    if kind is str:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return str(value)  # YAML reads a lone number of a list, such as stages: 2, as one
        return value if isinstance(value, str) and value else None
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)  # YAML 1.1 reads 1e-3, without a point, as a string
    except (ValueError, OverflowError):
        return None
    if kind is float:
        return number
    if not number.is_integer():
        return None
    return value if isinstance(value, int) else int(number)

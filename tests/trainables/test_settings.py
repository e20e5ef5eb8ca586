"""Fields that check what they are given, and say what was expected."""

from dataclasses import dataclass

import pytest

from trainables.errors import UserError
from trainables.settings import Setting, read, setting, settings_of


@dataclass(frozen=True, kw_only=True)
class Oven:
    heat: float = setting(180.0, "degrees Celsius", above=0, at_most=300, search=(100, 250))
    minutes: int = setting(30, "time inside", at_least=1)
    share: float = setting(0.5, "of the dough", at_least=0, at_most=1)
    fan: bool = setting(False, "moving air")
    shelf: str = setting("middle", "where", choices=("top", "middle"))
    name: str = setting("bread", "what is baked")
    rest: int | None = setting(None, "minutes afterwards", at_least=0)
    notes: tuple[str, ...] = ()


def test_settings_are_the_fields_made_with_setting() -> None:
    found = settings_of(Oven)
    assert list(found) == ["heat", "minutes", "share", "fan", "shelf", "name", "rest"]
    assert found["heat"] == Setting(
        kind=float,
        optional=False,
        default=180.0,
        help="degrees Celsius",
        above=0,
        at_most=300,
        search=(100, 250),
    )
    assert found["rest"].kind is int
    assert found["rest"].optional


@pytest.mark.parametrize(
    ("key", "given", "value"),
    [
        ("heat", 200, 200.0),
        ("heat", "2e2", 200.0),  # YAML 1.1 reads 2e2 as a string
        ("heat", 300, 300.0),
        ("minutes", 20.0, 20),
        ("minutes", "20", 20),
        ("minutes", 2**60 + 1, 2**60 + 1),
        ("share", 0, 0.0),
        ("share", 1, 1.0),
        ("fan", True, True),
        ("shelf", "top", "top"),
        ("rest", None, None),
        ("rest", 0, 0),
    ],
)
def test_values_are_taken_in_their_type(key: str, given: object, value: object) -> None:
    found = read(Oven, {key: given})
    assert found == {key: value}
    assert type(found[key]) is type(value)


@pytest.mark.parametrize(
    ("key", "given", "expected"),
    [
        ("heat", 0, "a number > 0 and <= 300"),
        ("heat", 300.1, "a number > 0 and <= 300"),
        ("heat", "warm", "a number > 0 and <= 300"),
        ("heat", float("nan"), "a number > 0 and <= 300"),
        ("heat", "inf", "a number > 0 and <= 300"),
        ("heat", 10**400, "a number > 0 and <= 300"),
        ("heat", True, "a number > 0 and <= 300"),
        ("heat", None, "a number > 0 and <= 300"),
        ("heat", [200], "a number > 0 and <= 300"),
        ("minutes", 0, "a whole number >= 1"),
        ("minutes", 2.5, "a whole number >= 1"),
        ("minutes", "inf", "a whole number >= 1"),
        ("minutes", "nan", "a whole number >= 1"),
        ("minutes", 10**400, "a whole number >= 1"),
        ("share", 1.01, "a number from 0 to 1"),
        ("share", -0.01, "a number from 0 to 1"),
        ("fan", 1, "true or false"),
        ("fan", "true", "true or false"),
        ("shelf", "bottom", "one of top, middle"),
        ("shelf", 1, "one of top, middle"),
        ("name", "", "a name"),
        ("name", True, "a name"),
        ("rest", -1, "a whole number >= 0"),
    ],
)
def test_a_wrong_value_is_named_with_what_was_expected(
    key: str, given: object, expected: str
) -> None:
    with pytest.raises(UserError) as caught:
        read(Oven, {key: given}, prefix="oven.")
    assert str(caught.value) == f"oven.{key}: expected {expected}, got {given!r}"


def test_a_lone_number_of_a_list_is_a_name() -> None:
    assert read(Oven, {"name": 2}) == {"name": "2"}


def test_an_unknown_key_is_named_with_its_neighbour() -> None:
    with pytest.raises(UserError, match=r"unknown key 'oven\.minuts'; did you mean oven\.minutes"):
        read(Oven, {"minuts": 3}, prefix="oven.")

"""What a name that is not known is met with."""

import pytest

from trainables.errors import nearest, unknown

KEYS = ("epochs", "kd.alpha", "kd.temperature", "lr", "lr_decay", "weight_decay")
EXPLAINERS = ("grad_cam", "grad_cam_pp", "grad_input", "gradient_shap", "lrp")


@pytest.mark.parametrize(
    ("name", "known", "expected"),
    [
        ("epoch", KEYS, "did you mean epochs?"),
        ("kd.temp", KEYS, "did you mean kd.temperature?"),
        ("kd.", KEYS, "did you mean kd.alpha or kd.temperature?"),
        ("l", KEYS, "did you mean lr?"),  # too short to be taken for a beginning
        ("temprature", KEYS, "did you mean kd.temperature?"),
        ("weihgt_decay", KEYS, "did you mean weight_decay?"),  # and not lr_decay, far behind it
        ("gra", EXPLAINERS, ""),  # the beginning of four
        ("grad_c", EXPLAINERS, "did you mean grad_cam or grad_cam_pp?"),
        ("lpr", EXPLAINERS, "did you mean lrp?"),
        ("nothing like it", EXPLAINERS, ""),
        ("anything", (), ""),
    ],
)
def test_the_nearest_names(name: str, known: tuple[str, ...], expected: str) -> None:
    assert nearest(name, known) == expected


def test_where_none_is_near_they_are_listed() -> None:
    assert str(unknown("key", "zzz", reversed(KEYS))) == (
        f"unknown key 'zzz'; known: {', '.join(sorted(KEYS))}"
    )
    many = [f"key_{number:03}" for number in range(100)]
    text = str(unknown("key", "zzz", many))
    assert "; known: key_000, key_001" in text
    assert text.endswith(", ... (100 in all)")
    assert len(text) < 250
    assert len(str(unknown("key", "z" * 1000, many))) < 310

"""Teachers of a study: trained, imported, or at the end of a chain of assistants."""

import pytest
import yaml

from search_spaces.load import parse_study
from search_spaces.spec import Study
from trainables.errors import UserError

ASSISTANT = {"model": "resnet32", "method": "kd", "kd.temperature": 4}


def study(teacher, **fixed) -> Study:
    content = {"name": "s", "dataset": "digits", "teacher": teacher, "sampler": "grid"}
    return parse_study(content | {"fixed": fixed, "dimensions": {"method": ["student", "kd"]}})


def test_an_assistant_is_distilled_from_a_teacher_of_its_own() -> None:
    spec = study({**ASSISTANT, "teacher": {"model": "resnet110", "epochs": 5}}, epochs=3)
    lower = spec.teacher_config()
    assert lower is not None
    assert (lower.student, lower.method, lower.epochs) == ("resnet32", "kd", 3)
    assert lower.terms["kd.temperature"] == 4
    assert lower.teacher == "resnet110"
    upper = spec.teacher_config(spec.teacher.teacher)
    assert upper is not None
    assert (upper.student, upper.method, upper.teacher, upper.epochs) == (
        *("resnet110", "student", None),
        5,
    )
    # Its name in rows tells it from a resnet32 that was trained plainly.
    assert spec.config({"method": "kd"}).teacher == "resnet32(kd:resnet110)"


def test_a_chain_may_be_long_and_end_in_an_imported_teacher() -> None:
    top = {"model": "resnet56", "method": "at+kd", "teacher": {"name": "mine"}}
    spec = study({**ASSISTANT, "teacher": top})
    assert spec.teacher is not None
    assert spec.teacher.label == "resnet32(kd:resnet56(kd+at:mine))"
    assert list(spec.teacher.chain("teacher")) == [
        "teacher",
        "teacher.teacher",
        "teacher.teacher.teacher",
    ]
    assert spec.teacher_config(spec.teacher.teacher.teacher) is None
    for given in ({}, {"exclude_defaults": True}):
        text = yaml.safe_dump(spec.model_dump(mode="json", **given))
        assert parse_study(yaml.safe_load(text)) == spec


def test_the_name_of_a_model_is_a_plain_teacher() -> None:
    short = study({**ASSISTANT, "teacher": "resnet110"})
    assert short == study({**ASSISTANT, "teacher": {"model": "resnet110"}})


def test_fixed_settings_of_terms_reach_assistants_but_their_own_win() -> None:
    fixed = {"kd.temperature": 7, "kd.alpha": 0.4, "at.beta": 9}
    teacher = {"model": "resnet32", "method": "kd", "teacher": "resnet110", "temperature": 2}
    config = study(teacher, **fixed).teacher_config()
    assert config is not None
    assert (config.terms["kd.alpha"], config.terms["kd.temperature"]) == (0.4, 2)
    assert "at.beta" not in config.terms


@pytest.mark.parametrize(
    ("teacher", "expected"),
    [
        ({"model": "a", "method": "kd"}, "teacher: method 'kd' needs a teacher of its own"),
        ({"model": "a", "teacher": "b"}, "teacher: a teacher with a teacher needs the method"),
        ({"name": "a", "method": "kd", "teacher": "b"}, "an imported teacher takes no method"),
        ({"method": "kd", "teacher": "b"}, "teacher: expected either model"),
        ({**ASSISTANT, "teacher": {"epochs": 3}}, "teacher: expected either model"),
        ({**ASSISTANT, "teacher": 3}, "teacher.teacher: expected keys and values"),
        ({**ASSISTANT, "method": "kdd", "teacher": "b"}, "teacher.method: unknown method 'kdd'"),
        ({**ASSISTANT, "method": "student", "teacher": "b"}, "'student' reads nothing of"),
        ({**ASSISTANT, "at.beta": 3, "teacher": "b"}, "unknown key 'teacher.at.beta'"),
        ({**ASSISTANT, "kd.alpha": 3, "teacher": "b"}, "teacher.kd.alpha: expected a number"),
        ({**ASSISTANT, "teacher": {"model": "b", "lr": 0}}, "teacher.teacher.lr: expected a"),
        ({"model": "a", "kd.alpha": 0.3}, "unknown key 'teacher.kd.alpha'"),
    ],
)
def test_a_mistake_is_named_in_one_line(teacher, expected) -> None:
    with pytest.raises(UserError) as caught:
        study(teacher)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)

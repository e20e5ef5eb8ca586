"""Further teachers of a study, by role, and which of them its trials read."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from search_spaces.load import load_study, override, parse_study
from search_spaces.roles import roles_of_trials
from search_spaces.spec import Study
from trainables.errors import UserError

CONTENT: dict[str, Any] = {
    "name": "s",
    "dataset": "digits",
    "teacher": "resnet56",
    "teachers": {"wide": {"model": "wrn_40_2", "epochs": 100}, "deep": "resnet110"},
    "fixed": {"student": "resnet8", "epochs": 3},
    "dimensions": {"method": ["student", "kd", "mkd", "kd+at"], "at.teacher": ["teacher", "wide"]},
    "sampler": "grid",
}


def study(**changes: Any) -> Study:
    return parse_study(CONTENT | changes)


def read(of: Study, **drawn: Any) -> dict[str, str]:
    return dict(of.config(drawn).teachers)


def test_a_trial_names_the_teachers_that_it_reads_and_no_other() -> None:
    spec = study()
    both = {"wide": "wrn_40_2", "deep": "resnet110"}
    assert read(spec, method="mkd") == both
    assert read(spec, method="kd") == {}
    assert read(spec, method="student") == {}
    assert read(spec, **{"method": "kd+at", "at.teacher": "wide"}) == {"wide": "wrn_40_2"}
    assert spec.config({"method": "mkd"}).teacher == "resnet56"


def test_a_trial_of_the_first_teacher_alone_is_what_it_was_without_others() -> None:
    spec = study()
    alone = study(teachers={}, dimensions={"method": ["student", "kd", "kd+at"]})
    for method in ("student", "kd"):
        assert spec.config({"method": method}) == alone.config({"method": method})
    taught = spec.config({"method": "kd+at", "at.teacher": "teacher"})
    assert taught == alone.config({"method": "kd+at"})
    assert not [key for key in taught.to_dict() if "teacher" in key.split(".")[1:]]


def test_the_grid_has_the_choice_where_the_term_is() -> None:
    points = study().first_points()
    assert [tuple(point.values()) for point in points] == [
        *(("student",), ("kd",), ("mkd",)),
        *(("kd+at", "teacher"), ("kd+at", "wide")),
    ]


def test_they_are_trained_by_their_own_settings_and_the_fixed_ones() -> None:
    spec = study(fixed={"student": "resnet8", "epochs": 3, "lr": 0.2})
    configs = {key: spec.teacher_config(one, key) for key, one in spec.all_teachers().items()}
    assert list(configs) == ["teacher", "teachers.wide", "teachers.deep"]
    trained = [(one.student, one.epochs, one.lr, one.method) for one in configs.values() if one]
    assert trained == [
        ("resnet56", 3, 0.2, "student"),
        ("wrn_40_2", 100, 0.2, "student"),
        ("resnet110", 3, 0.2, "student"),
    ]


def test_an_assistant_reads_its_own_teacher_whatever_trials_read() -> None:
    fixed = {"student": "resnet8", "at.teacher": "wide"}
    assistant = {"model": "resnet32", "method": "kd+at", "teacher": "resnet110"}
    spec = study(
        teacher=assistant,
        teachers={"wide": "wrn_40_2"},
        fixed=fixed,
        dimensions={"method": ["kd", "kd+at"]},
    )
    config = spec.teacher_config()
    assert config is not None
    assert (config.teacher, config.teachers) == ("resnet110", {})
    assert read(spec, method="kd+at") == {"wide": "wrn_40_2"}


def test_of_pairs_they_are_the_same() -> None:
    pairs = {"resnet56->resnet8": {}, "resnet32->resnet8": {"at.teacher": "deep"}}
    spec = study(
        teacher={"epochs": 7},
        pairs=pairs,
        fixed={"epochs": 3},
        dimensions={"method": ["mkd", "at"]},
    )
    found = [read(spec, pair=name, method=m) for name in pairs for m in ("mkd", "at")]
    both = {"wide": "wrn_40_2", "deep": "resnet110"}
    assert found == [both, {}, both, {"deep": "resnet110"}]
    further = spec.teacher_config(spec.teachers["deep"], "teachers.deep")
    assert further is not None
    assert further.epochs == 7


def test_it_is_the_same_study_when_it_is_read_back() -> None:
    spec = study()
    for given in ({}, {"exclude_defaults": True}):
        text = yaml.safe_dump(spec.model_dump(mode="json", **given))
        assert parse_study(yaml.safe_load(text)) == spec


# What is refused


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"teachers": {"Wide": "wrn_40_2"}}, "study: teachers.Wide: expected a role"),
        ({"teachers": {"teacher": "wrn_40_2"}}, "study: teachers.teacher: expected a role"),
        ({"teachers": {"model": "wrn_40_2"}}, "study: teachers.model: expected a role"),
        ({"teachers": {"wide": {}}}, "study: teachers.wide: expected either model"),
        ({"teachers": {"wide": 3}}, "study: teachers.wide: expected keys and values"),
        ({"teachers": ["wrn_40_2"]}, "study: teachers: expected keys and values"),
        (
            {"teachers": {"wide": {"model": "wrn_40_2", "epoch": 3}}},
            "unknown key 'teachers.wide.epoch'; did you mean teachers.wide.epochs",
        ),
        (
            {"teachers": {"wide": {"model": "wrn_40_2", "lr": -1}}},
            "teachers.wide.lr: expected a number > 0, got -1",
        ),
        (
            {"teachers": {"wide": {"model": "wrn_40_2", "method": "kd"}}},
            "study: teachers.wide: method 'kd' needs a teacher of its own",
        ),
        (
            {"teacher": {"model": "resnet56", "at.teacher": "wide"}},
            "unknown key 'teacher.at.teacher'",
        ),
        (
            {"dimensions": {"method": ["at"], "at.teacher": ["teacher", "wid"]}},
            "dimensions.at.teacher: unknown teacher 'wid'; did you mean wide?",
        ),
        (
            {"fixed": {"student": "resnet8", "kd.teacher": "x"}},
            "fixed.kd.teacher: unknown teacher 'x'; known: deep, teacher, wide",
        ),
        (
            {"fixed": {"student": "resnet8", "mkd.teacher": "wide"}},
            "unknown key 'mkd.teacher'",
        ),
        (
            {"teacher": None, "dimensions": {"method": ["student"]}},
            "study: teachers.wide: stands beside a teacher",
        ),
        (
            {"teachers": {"wide": "wrn_40_2", "broad": "wrn_40_2"}},
            "teachers.broad: is 'wrn_40_2' again, as teachers.wide is; leave it out",
        ),
        (
            {"teachers": {"wide": "resnet56"}},
            "teachers.wide: is 'resnet56' again, as teacher is; leave it out",
        ),
        (
            {"teachers": {"wide": {"model": "resnet56", "epochs": 9}}},
            "teachers.wide: is another 'resnet56' than teacher",
        ),
        (
            {
                "teacher": None,
                "pairs": {"resnet56->resnet8": {"at.teacher": "wid"}},
                "fixed": {},
                "dimensions": {"method": ["mkd", "at"]},
            },
            "pairs.resnet56->resnet8.at.teacher: unknown teacher 'wid'; did you mean wide?",
        ),
    ],
)
def test_a_mistake_is_named_by_its_key(changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(UserError) as caught:
        study(**changes)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def written(tmp_path: Path, **changes: Any) -> str:
    path = tmp_path / "s.yaml"
    path.write_text(yaml.safe_dump(CONTENT | changes, sort_keys=False))
    return str(path)


def test_a_teacher_that_no_trial_reads_has_no_effect(tmp_path: Path) -> None:
    path = written(tmp_path, dimensions={"method": ["kd", "at"], "at.teacher": ["teacher", "wide"]})
    with pytest.raises(UserError) as caught:
        load_study(path)
    assert str(caught.value) == (
        "teachers.deep: has no effect with method at, kd; a term reads it by TERM.teacher: deep, "
        "mkd reads all"
    )


def test_what_the_shell_leaves_of_methods_may_read_less(tmp_path: Path) -> None:
    path = written(tmp_path)
    assert roles_of_trials(load_study(path)) == ["wide", "deep"]
    assert roles_of_trials(load_study(path, ["method=kd"])) == []
    assert roles_of_trials(load_study(path, ["method=at", "at.teacher=deep"])) == ["deep"]
    with pytest.raises(UserError, match=r"^teachers.deep: has no effect with method kd;"):
        load_study(path, ["method=kd", "teachers.deep.epochs=1"])


def test_of_listed_points_those_that_they_read(tmp_path: Path) -> None:
    points = [{"method": "kd"}, {"method": "kd+at", "at.teacher": "wide"}]
    dimensions = {"method": ["kd", "mkd", "kd+at"], "at.teacher": ["teacher", "wide", "deep"]}
    listed = {"sampler": "points", "dimensions": dimensions, "points": points}
    assert roles_of_trials(study(**listed)) == ["wide"]
    with pytest.raises(UserError, match=r"^teachers.deep: has no effect with method kd, kd\+at;"):
        load_study(written(tmp_path, **listed))
    assert roles_of_trials(study(**listed | {"points": [{"method": "mkd"}]})) == ["wide", "deep"]


# From the shell


def set_(*assignments: str) -> dict[str, Any]:
    found: dict[str, Any] = override(CONTENT, assignments)["teachers"]
    return found


def test_values_from_the_shell() -> None:
    deep = {"deep": "resnet110"}
    assert set_("teachers.wide.epochs=3") == deep | {"wide": {"model": "wrn_40_2", "epochs": 3}}
    assert set_("teachers.wide.name=mine") == deep | {"wide": {"name": "mine"}}
    assert set_("teachers.wide=wrn_16_2") == deep | {"wide": "wrn_16_2"}
    assert set_("teachers.wide=null") == deep
    assert set_("teachers.deep.lr=0.2")["deep"] == {"model": "resnet110", "lr": 0.2}
    assert set_("teachers.more.model=resnet20")["more"] == {"model": "resnet20"}
    assert set_("teachers.wide.teacher.model=x")["wide"]["teacher"] == {"model": "x"}
    assert CONTENT["teachers"]["wide"] == {"model": "wrn_40_2", "epochs": 100}


def test_what_is_fixed_for_all_is_fixed_for_them() -> None:
    assert set_("epochs=1")["wide"] == {"model": "wrn_40_2"}
    spec = parse_study(override(CONTENT, ["epochs=1"]))
    for key, teacher in spec.all_teachers().items():
        config = spec.teacher_config(teacher, key)
        assert config is not None
        assert config.epochs == 1
    assert set_("teacher.epochs=1") == CONTENT["teachers"]
    assert set_("epochs=1", "teachers.wide.epochs=2")["wide"]["epochs"] == 2


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("teachers.wid.epochs=3", "unknown key 'teachers.wid.epochs'; did you mean teachers.wide."),
        ("teachers.wide.epoch=3", "unknown key 'teachers.wide.epoch'; did you mean"),
        ("teachers={}", "teachers: are set one by one: teachers.ROLE=MODEL"),
        ("at.teacher=wid", "fixed.at.teacher: unknown teacher 'wid'; did you mean wide?"),
    ],
)
def test_mistakes_from_the_shell(assignment: str, expected: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_study(override(CONTENT, [assignment]))
    assert str(caught.value).startswith(expected)

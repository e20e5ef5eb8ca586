"""Studies over pairs of a teacher and a student."""

import itertools

import pytest
import yaml

from search_spaces.load import override, parse_study
from search_spaces.spec import Study
from trainables.errors import UserError

BIG, SMALL = "wrn_40_4->wrn_16_4", "resnet14 -> resnet8"
BASE = {
    "name": "s",
    "dataset": "digits",
    "teacher": {"epochs": 9},
    "pairs": {
        BIG: {"lr": 0.01, "at.beta": 10},
        SMALL: None,
        "mine": {"teacher": {"name": "imported"}, "student": "wrn_16_2"},
    },
    "fixed": {"epochs": 2, "lr": 0.1, "kd.temperature": 4, "at.beta": 500},
    "dimensions": {"method": ["student", "kd", "kd+at"]},
    "sampler": "grid",
}


def study(*assignments: str, **changes) -> Study:
    return parse_study(override(BASE | changes, assignments))


def mistake(*assignments: str, **changes) -> str:
    with pytest.raises(UserError) as caught:
        study(*assignments, **changes)
    text = str(caught.value)
    assert "\n" not in text
    return text


def first(*assignments: str, **changes):
    spec = study(*assignments, **changes)
    return spec.config(spec.space.corner({}))


# What a trial is


def test_the_pair_is_a_dimension_of_its_own_and_comes_first() -> None:
    methods = BASE["dimensions"]["method"]
    points = study().first_points()
    assert points == [
        {"pair": pair, "method": method}
        for pair, method in itertools.product([BIG, SMALL, "mine"], methods)
    ]
    assert all(next(iter(point)) == "pair" for point in points)


def test_a_pair_gives_teacher_student_and_settings() -> None:
    spec = study()
    big = spec.config({"pair": BIG, "method": "kd+at"})
    assert (big.teacher, big.student, big.lr, big.epochs) == ("wrn_40_4", "wrn_16_4", 0.01, 2)
    assert (big.terms["at.beta"], big.terms["kd.temperature"]) == (10, 4)
    small = spec.config({"pair": SMALL, "method": "kd+at"})
    assert (small.teacher, small.student, small.lr) == ("resnet14", "resnet8", 0.1)
    assert small.terms["at.beta"] == 500
    mine = spec.config({"pair": "mine", "method": "student"})
    assert (mine.teacher, mine.student) == ("imported", "wrn_16_2")
    assert spec.config({"pair": BIG, "method": "student"}).terms == {}


def test_a_bare_name_of_a_pair_wins_over_a_fixed_full_key() -> None:
    spec = study(pairs={BIG: {"temperature": 8}, SMALL: None})
    found = [spec.config({"pair": p, "method": "kd"}).terms["kd.temperature"] for p in spec.pairs]
    assert found == [8, 4]


def test_the_shared_settings_reach_the_trained_teachers_only() -> None:
    assistant = {"model": "resnet14", "method": "kd", "teacher": "resnet20", "lr": 0.3}
    spec = study(
        pairs={**BASE["pairs"], "ta": {"teacher": assistant, "student": "resnet8"}},
        teacher={"epochs": 9, "temperature": 2},
    )
    configs = {
        key: [spec.teacher_config(step, key) for step in teacher.chain(key).values()]
        for key, teacher in spec.all_teachers().items()
    }
    assert [c.epochs for c in configs[f"pairs.{BIG}.teacher"]] == [9]
    assert [(c.student, c.epochs, c.lr) for c in configs["pairs.ta.teacher"]] == [
        ("resnet14", 9, 0.3),
        ("resnet20", 9, 0.1),
    ]
    assert configs["pairs.ta.teacher"][0].terms["kd.temperature"] == 2
    assert configs["pairs.mine.teacher"] == [None]


def test_teachers_of_one_network_can_be_told_apart_by_their_chain() -> None:
    distilled = {"model": "resnet14", "method": "kd", "teacher": "resnet20"}
    spec = study(pairs={SMALL: None, "ta": {"teacher": distilled, "student": "resnet8"}})
    names = {spec.config({"pair": pair, "method": "kd"}).teacher for pair in spec.pairs}
    assert names == {"resnet14", "resnet14(kd:resnet20)"}


def test_a_student_may_be_fixed_or_searched_for_all_pairs() -> None:
    teachers = {"a": {"teacher": "resnet14"}, "b": {"teacher": "wrn_16_2"}}
    fixed = study(pairs=teachers, fixed={"student": "resnet8"})
    assert fixed.config({"pair": "b", "method": "kd"}).student == "resnet8"
    searched = study(pairs=teachers, dimensions={"student": ["resnet8", "wrn_10_1"]})
    assert len(searched.first_points()) == 4


def test_dimensions_may_depend_on_the_pair() -> None:
    dimensions = {
        "method": ["student", "kd"],
        "kd.alpha": {"choices": [0.5, 0.9], "when": {"pair": [BIG]}},
        "momentum": {"choices": [0.5, 0.9], "when": {"optimizer": ["sgd"]}},
    }
    spec = study(dimensions=dimensions, pairs={BIG: None, SMALL: {"optimizer": "sgd"}})
    points = spec.first_points()
    assert [point for point in points if point["pair"] == BIG] == [
        {"pair": BIG, "method": "student"},
        {"pair": BIG, "method": "kd", "kd.alpha": 0.5},
        {"pair": BIG, "method": "kd", "kd.alpha": 0.9},
    ]
    assert {tuple(point) for point in points if point["pair"] == SMALL} == {
        ("pair", "method", "momentum")
    }


def test_a_pair_can_be_covered_and_listed() -> None:
    spec = study(
        cover=["pair", "method"],
        points=[{"pair": SMALL, "method": "kd"}],
        sampler="tpe",
        trials=20,
    )
    points = spec.first_points()
    assert points[0] == {"pair": SMALL, "method": "kd"}
    assert points[1:] == study().first_points()


def test_what_is_written_to_study_yaml_says_the_same() -> None:
    spec = study()
    for given in ({}, {"exclude_defaults": True}):
        text = yaml.safe_dump(spec.model_dump(mode="json", **given))
        assert parse_study(yaml.safe_load(text)) == spec


# --set


def test_one_pair_can_be_chosen_for_all_trials() -> None:
    spec = study(f"pair={SMALL}", points=[{"pair": BIG, "method": "kd"}], cover=["pair"])
    assert {point.get("pair", SMALL) for point in spec.first_points()} == {SMALL}
    assert spec.cover == []
    assert first(f"pair={SMALL}").teacher == "resnet14"


@pytest.mark.parametrize(
    ("assignment", "key", "expected"),
    [("student=wrn_10_1", "student", "wrn_10_1"), ("lr=0.5", "lr", 0.5), ("epochs=1", "epochs", 1)],
)
def test_a_value_from_the_shell_wins_over_that_of_a_pair(assignment, key, expected) -> None:
    spec = study(assignment)
    configs = [spec.config({"pair": pair, "method": "kd"}) for pair in spec.pairs]
    assert [getattr(config, key) for config in configs] == [expected] * 3
    assert [config.teacher for config in configs] == ["wrn_40_4", "resnet14", "imported"]


@pytest.mark.parametrize("own", ["kd.temperature", "temperature"])
@pytest.mark.parametrize("given", ["kd.temperature", "temperature"])
def test_it_wins_by_full_and_by_bare_name(own, given) -> None:
    config = first(f"{given}=3", f"pair={BIG}", "method=kd", pairs={BIG: {own: 9}})
    assert config.terms["kd.temperature"] == 3


def test_settings_of_teachers_win_over_those_of_pairs() -> None:
    own = {BIG: None, "own": {"teacher": {"model": "resnet14", "epochs": 50}, "student": "resnet8"}}
    for assignment in ("epochs=1", "teacher.epochs=1"):
        spec = study(assignment, pairs=own)
        found = [spec.teacher_config(t, key).epochs for key, t in spec.all_teachers().items()]
        assert found == [1, 1]
    assert study("teacher.epochs=1", pairs=own).fixed["epochs"] == 2


def test_what_no_pair_gives_is_fixed_as_ever() -> None:
    spec = study("image_size=16", "momentum=0.5")
    assert (spec.fixed["image_size"], spec.fixed["momentum"]) == (16, 0.5)
    assert all("momentum" not in pair.settings for pair in spec.pairs.values())


def test_a_student_from_the_shell_is_still_there_when_a_sweep_is_reopened() -> None:
    written = study("student=wrn_10_1").model_dump(mode="json", exclude_defaults=True)
    spec = parse_study(yaml.safe_load(yaml.safe_dump(written, sort_keys=False)))
    assert spec.config({"pair": BIG, "method": "kd"}).student == "wrn_10_1"


def test_the_data_set_can_be_changed() -> None:
    assert first("dataset=cifar10").dataset == "cifar10"


def test_overriding_leaves_the_content_as_it_was() -> None:
    before = yaml.safe_dump(BASE)
    study("lr=3", "teacher.epochs=1", "student=wrn_10_1", f"pair={BIG}")
    assert yaml.safe_dump(BASE) == before


# What is refused


def one(settings, name="a->b") -> dict:
    return {"pairs": {name: settings}}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (one({"lr": -1}, BIG), f"pairs.{BIG}.lr: expected a number > 0, got -1"),
        (one({"lrr": 1}), "unknown key in pairs.a->b 'lrr'; did you mean lr"),
        (one({"kd.alpha": 2}), "pairs.a->b.kd.alpha: expected a number from 0 to 1"),
        (one({"lr": [1, 2]}), "pairs.a->b.lr: expected a number > 0, got [1, 2]"),
        (one({"method": "kdd"}) | {"dimensions": {}}, "pairs.a->b: unknown method 'kdd'"),
        (one({"method": "kd"}), "pairs.a->b.method: is a dimension, too"),
        (one({"dataset": "cifar10"}), "pairs.a->b.dataset: is a key of the study"),
        (one({"image_size": 32}), "pairs.a->b.image_size: is one for all trials"),
        (one({"width": 2, "factor": 2}), "pairs.a->b: compression: width and factor are both"),
        (one({"teacher": {"model": "a", "epoch": 1}}), "'pairs.a->b.teacher.epoch'; did you mean"),
        (one({"teacher": {"model": "a", "epochs": 0}}), "pairs.a->b.teacher.epochs: expected a"),
        (one({"teacher": {"model": "a", "method": "kd"}}), "pairs.a->b.teacher: method 'kd' needs"),
        (one({"teacher": {"epochs": 1}}), "pairs.a->b: teacher: expected either model"),
        (one({"teacher": 3}), "pairs.a->b.teacher: expected keys and values"),
        (one({"student": "b"}, "big"), "key 'pairs.big.teacher' is missing"),
        (one({"teacher": "a"}, "big"), "pairs.big.student: expected the name of a model"),
        (one(None, "a->b->c"), "key 'pairs.a->b->c.teacher' is missing"),
        ({"teacher": {"model": "a"}}, "teacher.model: with pairs, every pair names its teacher"),
        ({"teacher": {"epoch": 1}}, "unknown key 'teacher.epoch'; did you mean teacher.epochs"),
        ({"teacher": {"epochs": 0}}, "teacher.epochs: expected a whole number >= 1, got 0"),
        ({"teacher": {"student": "x"}}, "unknown key 'teacher.student'"),
        ({"dimensions": {"student": ["x"]}}, f"pairs.{BIG}.student: is a dimension, too"),
        ({"points": [{"pair": "c->d"}]}, "points: pair 'c->d' is not in its dimension"),
        (
            {"pairs": {SMALL: None, "a->b": {"teacher": {"model": "resnet14", "lr": 3}}}},
            f"pairs.a->b.teacher: is another 'resnet14' than pairs.{SMALL}.teacher",
        ),
    ],
)
def test_a_mistake_is_named_in_one_line(changes, expected) -> None:
    assert expected in mistake(**changes)


def test_a_corner_of_one_pair_alone_is_checked_too() -> None:
    dimensions = {"compression": ["explicit", "width"], "method": ["student", "kd"]}
    assert "pairs.c->d: width: compression 'width' needs its value" in mistake(
        dimensions=dimensions, pairs={"a->b": {"width": 0.5}, "c->d": None}
    )


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("pair=wrn_40_4->wrn_16_2", f"unknown pair 'wrn_40_4->wrn_16_2'; did you mean {BIG}"),
        ("pair=[1]", "unknown pair '[1]'"),
        ("pairs={}", "unknown key 'pairs'"),
        ("teacher.model=resnet8", "teacher.model: with pairs, every pair names its teacher"),
        ("lr=0", "lr: expected a number > 0, got 0"),
    ],
)
def test_a_mistaken_assignment_is_named_in_one_line(assignment, expected) -> None:
    assert expected in mistake(assignment)


def test_a_study_without_pairs_has_none_to_choose() -> None:
    assert "pair: the study has no pairs" in mistake("pair=x", pairs={}, teacher=None)

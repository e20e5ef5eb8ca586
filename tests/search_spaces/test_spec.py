"""Studies: which settings exist in a trial, what a grid is, which mistakes are refused."""

import math

import pytest

from orchestrator.sweeps.checks import check_search
from search_spaces.dimension import Dimension, grid_values
from search_spaces.load import parse_study
from trainables.data.sources import load_dataset
from trainables.errors import UserError
from trainables.trial_settings import MAX_SEED

BASE = {
    "name": "s",
    "dataset": "digits",
    "teacher": {"model": "wrn_16_2", "epochs": 4},
    "fixed": {"student": "wrn", "epochs": 2},
    "dimensions": {"method": ["student", "kd"], "factor": [2, 4]},
    "sampler": "grid",
}


def study(**changes):
    return parse_study(BASE | changes)


def mistake(**changes):
    with pytest.raises(UserError) as caught:
        study(**changes)
    text = str(caught.value)
    assert "\n" not in text
    return text


# What a trial is


def test_fixed_drawn_and_default_values_meet_in_a_config():
    config = study().config({"method": "kd", "factor": 4})
    assert (config.dataset, config.teacher, config.student) == ("digits", "wrn_16_2", "wrn")
    assert (config.method, config.compression, config.chain) == ("kd", "factor", {"factor": 4})
    assert (config.epochs, config.batch_size) == (2, 64)


def test_settings_of_a_term_exist_only_with_the_term():
    spec = study(
        fixed={"student": "wrn", "at.beta": 500},
        dimensions={"method": ["student", "kd", "kd+at"], "kd.alpha": [0.5], "temperature": [4]},
    )
    drawn = {
        method: spec.space.draw(
            lambda key, dimension, m=method: m if key == "method" else dimension.choices[0]
        )
        for method in ("student", "kd", "kd+at")
    }
    assert drawn["student"] == {"method": "student"}
    assert drawn["kd"] == {"method": "kd", "kd.alpha": 0.5, "temperature": 4}
    assert spec.config(drawn["student"]).terms == {}
    taught = spec.config(drawn["kd"]).terms
    assert (taught["kd.alpha"], taught["kd.temperature"]) == (0.5, 4.0)
    assert all(key.startswith("kd.") for key in taught)
    assert spec.config(drawn["kd+at"]).terms["at.beta"] == 500


def test_an_amount_exists_only_with_its_kind_of_compression():
    spec = study(
        fixed={"student": "wrn_16_2"},
        dimensions={"compression": ["factor", "width"], "factor": [4], "width": [0.5, 0.25]},
    )
    assert spec.first_points() == [
        {"compression": "factor", "factor": 4},
        {"compression": "width", "width": 0.5},
        {"compression": "width", "width": 0.25},
    ]


def test_when_restricts_a_dimension():
    spec = study(
        dimensions={
            "optimizer": ["sgd", "adam"],
            "momentum": {"choices": [0.8, 0.9], "when": {"optimizer": ["sgd"]}},
        }
    )
    assert spec.first_points() == [
        {"optimizer": "sgd", "momentum": 0.8},
        {"optimizer": "sgd", "momentum": 0.9},
        {"optimizer": "adam"},
    ]


def test_seeds_count_from_the_fixed_ones():
    spec = study(fixed={"student": "wrn", "seed": 10, "view_seed": 20})
    seeds = [(c.seed, c.view_seed) for c in (spec.config({"factor": 2}, repeat=k) for k in (0, 1))]
    assert seeds == [(10, 20), (11, 21)]


def test_the_teacher_takes_the_fixed_training_settings_and_its_own():
    config = study(fixed={"student": "wrn", "epochs": 2, "lr": 0.3, "at.beta": 5}).teacher_config()
    assert (config.student, config.method, config.compression) == (
        "wrn_16_2",
        "student",
        "explicit",
    )
    assert (config.epochs, config.lr) == (4, 0.3)


def test_an_imported_teacher_is_not_trained():
    spec = study(teacher={"name": "mine"})
    assert spec.teacher_config() is None
    assert spec.config({"method": "kd", "factor": 2}).teacher == "mine"


def test_a_range_with_step_has_its_ends_in_a_grid():
    spec = study(dimensions={"lr": {"low": 0.1, "high": 0.4, "step": 0.1}})
    assert grid_values(spec.dimensions["lr"], "lr") == pytest.approx([0.1, 0.2, 0.3, 0.4])
    whole = study(dimensions={"batch_size": {"low": 16, "high": 64, "step": 16}})
    assert grid_values(whole.dimensions["batch_size"], "batch_size") == [16, 32, 48, 64]


def test_a_point_may_leave_out_dimensions():
    spec = study(points=[{"method": "kd"}, {"factor": 4}], sampler="points")
    assert spec.first_points() == [{"method": "kd"}, {"factor": 4}]


# What is refused


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"fixd": {}}, "'fixd'; did you mean fixed?"),
        ({"fixed": {"student": "wrn", "epoch": 3}}, "'epoch'; did you mean epochs"),
        ({"dimensions": {"temprature": [1]}}, "'temprature'; did you mean temperature"),
        ({"dimensions": {"lr": {"lo": 1, "high": 2}}}, "dimensions.lr 'lo'; did you mean low"),
        (
            {"teacher": {"model": "wrn_16_2", "epoch": 3}},
            "'teacher.epoch'; did you mean teacher.epochs",
        ),
        ({"teacher": {"modl": "wrn_16_2"}}, "teacher: expected either model"),
        ({"teacher": {"name": "x", "epochs": 3}}, "an imported teacher takes no epochs"),
        (
            {"teacher": {"model": "wrn_16_2", "epochs": 0}},
            "teacher.epochs: expected a whole number",
        ),
        ({"teacher": ["wrn_16_2"]}, "teacher: expected keys and values"),
        ({"fixed": {"lr": [1, 2]}}, "fixed.lr: expected a single value"),
        ({"fixed": {"lr": -1}}, "fixed.lr: expected a number > 0, got -1"),
        ({"fixed": {"epochs": 1.5}}, "fixed.epochs: expected a whole number"),
        ({"fixed": {"dataset": "cifar10"}}, "fixed.dataset: is a key of the study"),
        ({"fixed": {"teacher": "x"}}, "teacher.model"),
        ({"fixed": {"pair": "x"}}, "fixed.pair: is the choice among the study's pairs"),
        ({"dimensions": {"pair": ["x"]}}, "dimensions.pair: is the choice among"),
        ({"fixed": {"stage": "confirm"}}, "kdsweep confirm"),
        ({"fixed": {"student": "wrn", "factor": 3}}, "factor: is both fixed and a dimension"),
        ({"fixed": {"student": "wrn", "width": 2}}, "width and factor are both given"),
        ({"dimensions": {"temperature": [0, 2]}}, "dimensions.temperature: expected a number > 0"),
        ({"dimensions": {"method": ["kd", "kdd"]}}, "unknown method 'kdd'; did you mean "),
        ({"dimensions": {"lr": 3}}, "dimensions.lr: expected a list of choices, or low and high"),
        ({"dimensions": {"lr": {"low": 1}}}, "expected a list of choices, or low and high"),
        ({"dimensions": {"lr": {"low": 2, "high": 1, "step": 1}}}, "low 2 is above high 1"),
        ({"dimensions": {"lr": {"low": 0, "high": 1, "log": True}}}, "must start above 0"),
        ({"dimensions": {"lr": {"low": 1, "high": 2}}}, "a grid needs choices"),
        (
            {"dimensions": {"batch_size": {"low": 1, "high": 2, "step": 0.5}}},
            "a whole number, got 0.5",
        ),
        (
            {"dimensions": {"lr": {"choices": [1], "when": {"optimiser": ["sgd"]}}}},
            "optimiser is neither",
        ),
        ({"cover": ["facto"]}, "cover: facto is not a dimension"),
        ({"points": [{"facto": 2}]}, "points: facto is not a dimension"),
        ({"points": [{"factor": 3}]}, "points: factor 3 is not in its dimension"),
        ({"objectives": {"test_acc": "max"}}, "nothing is ever selected on the test set"),
        ({"objectives": {"teacher_test_acc": "max"}}, "ever selected on the test set"),
        ({"objectives": {"peer_test_acc": "max"}}, "ever selected on the test set"),
        ({"objectives": {"val_accuracy": "max"}}, "did you mean val_acc"),
        ({"objectives": {"host": "max"}}, "unknown objective 'host'"),
        ({"objectives": {"seed": "max"}}, "unknown objective 'seed'"),
        ({"objectives": {"peer_val_acc": "max"}}, "peer_val_acc: needs a method with peers"),
        (
            {"objectives": {"compression_macs": "max"}, "teacher": None},
            "objectives.compression_macs: needs a teacher",
        ),
        ({"objectives": {"val_acc": "up"}}, "objectives.val_acc"),
        ({"objectives": {}}, "objectives"),
        ({"sampler": "tpee"}, "sampler"),
        ({"trials": 0}, "trials"),
        ({"repeats": 0}, "repeats"),
        ({"dataset": None}, "dataset"),
    ],
)
def test_a_mistake_is_named_in_one_line(changes, expected):
    assert expected in mistake(**changes)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"fixed": {"student": "wrn", "seed": MAX_SEED}, "repeats": 2},
            f"seed: {MAX_SEED} with repeats: 2 reaches beyond the greatest seed, {MAX_SEED}",
        ),
        (
            {"dimensions": {"view_seed": [1, MAX_SEED]}, "repeats": 3},
            f"view_seed: {MAX_SEED} with repeats: 3",
        ),
        ({"sampler_seed": 99999999999}, "sampler_seed"),
        ({"repeats": 10**9}, "repeats"),
        ({"dimensions": {"lr": {"low": 0.1, "high": math.inf}}}, "dimensions.lr.high"),
        ({"dimensions": {"lr": {"low": 0.1, "high": 1, "step": math.inf}}}, "dimensions.lr.step"),
        ({"dimensions": {"milestones": ["0.5", "0.5,x"]}}, "milestones: expected fractions"),
    ],
)
def test_what_only_some_trials_would_meet_is_refused_at_once(changes, expected):
    assert expected in mistake(**changes)


def test_what_peers_measure_can_be_optimised_where_there_are_any():
    methods = {"method": ["student", "kd+dml"], "factor": [2]}
    study(objectives={"peer_val_acc": "max"}, dimensions=methods)
    pairs = {"resnet14->resnet8": {"method": "dml"}, "resnet20->resnet8": None}
    study(objectives={"peer_val_acc": "max"}, teacher=None, pairs=pairs, dimensions={})


def test_the_last_seeds_are_fine():
    spec = study(fixed={"student": "wrn", "seed": MAX_SEED - 2}, repeats=3)
    assert spec.config({"factor": 2}, repeat=2).seed == MAX_SEED
    assert study(sampler_seed=MAX_SEED).sampler_seed == MAX_SEED


# A study of data and fixed settings alone


def test_without_dimensions_there_is_one_config():
    spec = parse_study({"name": "s", "dataset": "digits", "fixed": {"student": "wrn_10_1"}})
    assert spec.objectives == {"val_acc": "max"}
    assert spec.first_points() == [{}]
    assert not spec.asks_sampler
    check_search(spec, lambda: load_dataset("digits"))
    assert spec.config({}).student == "wrn_10_1"


def test_only_a_search_needs_a_budget():
    spec = study(sampler="tpe")
    assert spec.config({"factor": 2}).chain == {"factor": 2}
    with pytest.raises(UserError, match="trials: expected how many configs to train"):
        check_search(spec, lambda: load_dataset("digits"))
    for enough in (study(sampler="tpe", trials=3), study()):
        check_search(enough, lambda: load_dataset("digits"))


# Steps


@pytest.mark.parametrize(
    ("low", "high", "step", "expected"),
    [
        (0.1, 0.7, 0.1, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]),
        (0.0, 0.9, 0.3, [0.0, 0.3, 0.6, 0.9]),
        (0.05, 0.3, 0.1, [0.05, 0.15, 0.25]),
        (1e-4, 3e-4, 1e-4, [0.0001, 0.0002, 0.0003]),
        (0.5, 0.5, 0.1, [0.5]),
    ],
)
def test_steps_are_round_and_stay_below_the_end(low, high, step, expected):
    dimension = Dimension(low=low, high=high, step=step)
    assert grid_values(dimension, "momentum") == expected  # to the last digit
    assert dimension.last == expected[-1]
    assert [dimension.rounded(value + step / 3) for value in expected] == expected
    assert all(value in dimension for value in expected)


def test_a_range_of_too_many_steps_is_refused():
    with pytest.raises(UserError, match=r"dimensions\.lr: has more than 100,000 values"):
        study(dimensions={"lr": {"low": 0.1, "high": 1, "step": 1e-9}}).first_points()


def test_a_dimension_that_decides_another_must_stand_before_it():
    dimensions = {
        "momentum": {"choices": [0.8], "when": {"optimizer": ["sgd"]}},
        "optimizer": ["sgd", "adam"],
    }
    assert "momentum.when: optimizer is neither" in mistake(dimensions=dimensions)


def test_a_missing_key_is_named():
    with pytest.raises(UserError, match="key 'dataset' is missing"):
        parse_study({key: value for key, value in BASE.items() if key != "dataset"})


def test_a_grid_without_end_is_refused():
    many = list(range(1, 401))
    spec = study(dimensions={"batch_size": many, "epochs": many}, fixed={})
    with pytest.raises(UserError, match="more than 100,000 points"):
        spec.first_points()

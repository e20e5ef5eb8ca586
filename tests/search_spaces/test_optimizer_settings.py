"""The settings of an update rule: who has them, and who says so in vain."""

import json

import pytest
import yaml

from search_spaces.load import load_study, override, parse_study
from search_spaces.schema import study_schema
from search_spaces.spec import Study
from trainables.config import TrialConfig
from trainables.errors import UserError
from trainables.experiment import config_key, decisive

BASE = {"name": "s", "dataset": "digits", "fixed": {"student": "wrn_10_1"}, "trials": 4}


def study(**changes: object) -> Study:
    return parse_study({**BASE, **changes})


def make(**values: object) -> TrialConfig:
    return TrialConfig.from_mapping(
        {key.replace("optimizer_", "optimizer."): value for key, value in values.items()}
    )


def key(config: TrialConfig) -> str:
    return config_key(config, student="wrn_16_1", data_fingerprint="d", teacher_fingerprint=None)


def test_a_config_has_those_of_its_rule() -> None:
    assert make().rule == {}
    adam = make(optimizer="adam", optimizer_eps="1e-2")
    assert adam.rule == {"optimizer.beta1": 0.9, "optimizer.beta2": 0.999, "optimizer.eps": 0.01}
    assert TrialConfig.from_mapping(json.loads(adam.to_json())) == adam
    assert adam.replace(**{"optimizer.beta1": 0.5}).rule["optimizer.beta1"] == 0.5
    muon = make(optimizer="muon", momentum=0.8)
    assert (muon.momentum, muon.rule["optimizer.momentum"]) == (0.8, 0.95)


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ({"optimizer_beta2": 0.9}, "optimizer.beta2: has no effect with optimizer sgd"),
        ({"optimizer": "adam", "optimizer_beta1": 1}, "optimizer.beta1: expected a number from 0 "),
        (
            {"optimizer": "adam", "optimizer_momentum": 0.5},
            "optimizer.momentum: has no effect with optimizer adam",
        ),
        (
            {"optimizer": "muon", "optimizer_scal": "rms"},
            "unknown key 'optimizer.scal'; did you mean optimizer.scale",
        ),
        ({"optimizer": "adam", "beta1": 0.5}, "unknown key 'beta1'"),
        ({"optimizer": "mun"}, "muon, shampoo, soap, got 'mun'; did you mean muon"),
    ],
)
def test_mistakes_are_named(values: dict, error: str) -> None:
    with pytest.raises(UserError) as caught:
        make(**values)
    assert error in str(caught.value)


def test_keys_of_configs_from_before_there_were_settings() -> None:
    assert key(make()) == "53c833c268856296"
    assert key(make(optimizer="adam")) == "0d27eba6eecc0698"
    assert key(make(optimizer="adamw")) == "ca81045054bb46a0"
    assert key(make(optimizer="adam", optimizer_eps=0.01)) != key(make(optimizer="adam"))
    keys = {key(make(optimizer=name)) for name in ("muon", "soap", "shampoo")}
    keys |= {key(make(optimizer="muon", optimizer_beta1=b)) for b in (0.5, 0.8)}
    assert len(keys) == 5


def test_rows_from_before_are_the_same_experiment() -> None:
    now = make(optimizer="adam").to_dict()
    before = {key: value for key, value in now.items() if not key.startswith("optimizer.")}
    assert decisive(before) == decisive(now)


def test_a_dimension_exists_where_the_rule_has_it() -> None:
    dimensions = {
        "optimizer.beta2": [0.9, 0.99],
        "optimizer": ["sgd", "adamw", "muon", "shampoo"],
        "optimizer.precondition_every": [5],
    }
    points = list(study(dimensions=dimensions).space.grid())
    assert points == [
        {"optimizer": "sgd"},
        *({"optimizer": "adamw", "optimizer.beta2": value} for value in (0.9, 0.99)),
        *({"optimizer": "muon", "optimizer.beta2": value} for value in (0.9, 0.99)),
        {"optimizer": "shampoo", "optimizer.precondition_every": 5},
    ]
    configs = [study(dimensions=dimensions).config(point) for point in points]
    assert configs[2].rule["optimizer.beta2"] == 0.99
    assert configs[0].rule == {}


def test_ranges_worth_searching_are_known() -> None:
    spec = study(dimensions={"optimizer": ["adam", "muon"], "optimizer.eps": None})
    assert (spec.dimensions["optimizer.eps"].low, spec.dimensions["optimizer.eps"].log) == (
        1e-10,
        True,
    )


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        (
            {"dimensions": {"optimizer": ["sgd", "adam"], "optimizer.scale": ["rms"]}},
            "optimizer.scale: has no effect with optimizer adam, sgd",
        ),
        (
            {"fixed": {"student": "wrn_10_1", "optimizer.beta2": 0.9}},
            "optimizer.beta2: has no effect with optimizer sgd",
        ),
        ({"fixed": {"optimizer.beta": 0.9}}, "unknown key 'optimizer.beta'; did you mean"),
        (
            {"dimensions": {"optimizer": ["muon"], "optimizer.scale": ["rsm"]}},
            "dimensions.optimizer.scale: expected one of spectral, rms, got 'rsm'",
        ),
    ],
)
def test_what_no_trial_has_is_refused(changes: dict, error: str, tmp_path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(yaml.safe_dump({**BASE, **changes}))
    with pytest.raises(UserError) as caught:
        load_study(str(file))
    assert error in str(caught.value)


def test_a_teacher_has_those_of_its_own_rule() -> None:
    fixed = {"student": "wrn_10_1", "optimizer": "adam", "optimizer.eps": 0.01}
    spec = study(fixed=fixed, teacher={"model": "wrn_16_1", "optimizer": "sgd"})
    plain = spec.teacher_config()
    assert plain is not None
    assert (plain.optimizer, plain.rule) == ("sgd", {})
    spec = study(fixed=fixed, teacher={"model": "wrn_16_1", "optimizer.beta1": 0.5})
    shared = spec.teacher_config()
    assert shared is not None
    assert (shared.rule["optimizer.eps"], shared.rule["optimizer.beta1"]) == (0.01, 0.5)
    with pytest.raises(UserError, match=r"unknown key 'teacher.optimizer.beta1'"):
        study(teacher={"model": "wrn_16_1", "optimizer.beta1": 0.5})
    assert "optimizer.eps" in study_schema()["$defs"]["TeacherSpec"]["properties"]


def test_the_trials_momentum_is_not_the_rules() -> None:
    """``--set momentum`` leaves ``optimizer.momentum`` alone, the teacher's as well."""
    teacher = {"model": "wrn_16_1", "optimizer.momentum": 0.5}
    fixed = {"student": "wrn_10_1", "optimizer": "muon", "optimizer.momentum": 0.7}
    found = override({**BASE, "fixed": fixed, "teacher": teacher}, ["momentum=0.1"])
    spec = parse_study(found)
    assert spec.config({}).rule["optimizer.momentum"] == 0.7
    upper = spec.teacher_config()
    assert upper is not None
    assert upper.rule["optimizer.momentum"] == 0.5
    changed = override(found, ["optimizer.momentum=0.2"])
    assert parse_study(changed).config({}).rule["optimizer.momentum"] == 0.2

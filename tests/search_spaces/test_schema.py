"""The JSON schema of studies, with the validator that editors' own ones agree with."""

import copy
import json

import pytest
import yaml
from jsonschema import Draft202012Validator

from search_spaces.load import SHIPPED, study_names
from search_spaces.schema import study_schema

SCHEMA = study_schema()
VALIDATOR = Draft202012Validator(SCHEMA)


def shipped(name):
    return yaml.safe_load((SHIPPED / f"{name}.yaml").read_text())


def test_it_is_a_valid_schema():
    Draft202012Validator.check_schema(SCHEMA)
    json.dumps(SCHEMA)


@pytest.mark.parametrize("name", study_names())
def test_it_accepts_every_shipped_study(name):
    VALIDATOR.validate(shipped(name))


MISTAKES = [
    (("teachr",), {"model": "wrn_16_2"}),
    (("teacher", "epoch"), 3),
    (("teacher", "method"), "kd"),
    (("teacher", "teacher"), "wrn_40_2"),
    (("pairs",), {"wrn_40_2->wrn_16_2": {"epoch": 3}}),
    (("pairs",), {"wrn_40_2->wrn_16_2": {"dataset": "cifar10"}}),
    (("pairs",), {"wrn_40_2->wrn_16_2": {"lr": 0}}),
    (("pairs",), {"wrn_40_2->wrn_16_2": 3}),
    (("pairs",), {"big": {"student": "wrn_16_2"}}),
    (("pairs",), {"big": None}),
    (("teachers",), ["wrn_40_2"]),
    (("teachers",), {"wide": {"model": "wrn_40_2", "epoch": 3}}),
    (("teachers",), {"wide": {"model": "wrn_40_2", "at.teacher": "wide"}}),
    (("fixed", "epoch"), 3),
    (("fixed", "lr"), 0),
    (("fixed", "epochs"), 1.5),
    (("fixed", "optimizer"), "sgdd"),
    (("fixed", "kd.temprature"), 4),
    (("dimensions", "metod"), ["kd"]),
    (("dimensions", "temperature"), {"lo": 1, "high": 2}),
    (("dimensions", "temperature"), 4),
    (("dimensions", "temperature"), []),
    (("objectives",), {"val_acc": "up"}),
    (("sampler",), "tpee"),
    (("trials",), 0),
]


@pytest.mark.parametrize(("path", "value"), MISTAKES, ids=[".".join(path) for path, _ in MISTAKES])
def test_it_refuses_mistakes(path, value):
    study = copy.deepcopy(shipped("digits"))
    block = study
    for key in path[:-1]:
        block = block[key]
    block[path[-1]] = value
    assert not VALIDATOR.is_valid(study)


GOOD = [
    ("teacher", "resnet32"),
    ("teachers", {"wide": {"model": "wrn_40_2", "epochs": 100}, "deep": "resnet110"}),
    ("fixed", {"student": "wrn", "at.teacher": "wide"}),
    ("teacher", {"model": "resnet32", "method": "kd", "kd.temperature": 4, "teacher": "resnet110"}),
    ("pairs", {"wrn_40_2->wrn_16_2": None, "a->b": {"lr": 0.01, "kd.temperature": 2}}),
    ("pairs", {"big": {"teacher": "wrn_40_2", "student": "wrn_16_2"}}),
    ("pairs", {"big": {"teacher": {"name": "mine"}, "student": "wrn_16_2", "flip": None}}),
]


@pytest.mark.parametrize(("key", "value"), GOOD)
def test_it_accepts_chains_pairs_and_several_teachers(key, value):
    VALIDATOR.validate(shipped("digits") | {key: value})


def test_every_setting_says_what_it_is():
    settings = SCHEMA["properties"]["fixed"]["properties"]
    assert settings["kd.temperature"]["description"]
    assert settings["lr"]["exclusiveMinimum"] == 0
    assert settings["optimizer"]["enum"] == ["sgd", "adam", "adamw", "muon", "shampoo", "soap"]
    assert all(setting["description"] for setting in settings.values())


@pytest.mark.parametrize("key", ["dataset", "teacher", "stage"])
def test_it_offers_no_setting_that_a_study_must_not_give(key):
    assert key not in SCHEMA["properties"]["fixed"]["properties"]
    assert key not in SCHEMA["properties"]["dimensions"]["properties"]

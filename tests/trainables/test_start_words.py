"""What a config says of a student's start, and what of it decides."""

import json
from collections.abc import Callable

import pytest

from trainables.config import TrialConfig
from trainables.errors import UserError
from trainables.experiment import config_key, decisive

Quick = Callable[..., TrialConfig]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"teacher": None}, "start: teacher needs one"),
        ({"compression": "width", "width": 0.5}, "start: teacher begins with a network as it is"),
        ({"compression": "factor+prune", "factor": 2, "student": "wrn"}, "'factor' of compression"),
    ],
)
def test_words_that_contradict_one_another(quick: Quick, values, words: str) -> None:
    with pytest.raises(UserError, match=words):
        quick(**{"student": "resnet8", "teacher": "resnet8", "start": "teacher"} | values)


def test_the_start_decides_by_its_weights(quick: Quick) -> None:
    prints = {"student": "resnet8", "data_fingerprint": "d", "teacher_fingerprint": "t"}
    scratch = quick(student="resnet8", teacher="resnet8")
    taught = scratch.replace(start="teacher")
    named = scratch.replace(start="name")
    plain = config_key(scratch, **prints)
    before = {key: value for key, value in scratch.to_dict().items() if key != "start"}
    assert plain == config_key(TrialConfig.from_mapping(before), **prints)
    first, second = (config_key(taught, **prints, start_fingerprint=one) for one in "ab")
    assert len({plain, first, second}) == 3
    assert config_key(named, **prints, start_fingerprint="a") == first
    assert json.loads(taught.to_json())["start"] == "teacher"
    assert decisive(taught.to_dict()) != decisive(scratch.to_dict()) == decisive(before)

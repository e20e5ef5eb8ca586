"""The published block of a study: what it knows, and the mistakes that it refuses."""

from typing import Any

import pytest

from search_spaces.load import parse_study
from search_spaces.published import Published, join_pair, split_pair
from trainables.errors import UserError

BLOCK: dict[str, Any] = {
    "source": "a paper",
    "dataset": "digits",
    "test_acc": {
        "kd": {"wrn_16_2->wrn_10_1": 90, "resnet32(kd:resnet56)->wrn_10_1": 91.5},
        "student": {"wrn_16_2->wrn_10_1": 88, "wrn_16_4->wrn_10_1": 88},
    },
    "others": {"best": {"wrn_16_4->wrn_10_1": 93}},
}


def study(**changes: Any) -> dict[str, Any]:
    return {
        "name": "own",
        "dataset": "digits",
        "sampler": "grid",
        "dimensions": {"lr": [0.1]},
        "published": {**BLOCK, **changes},
    }


def test_pairs_in_the_written_order() -> None:
    published = Published.model_validate(BLOCK)
    assert published.pairs() == [
        ("wrn_16_2", "wrn_10_1"),
        ("resnet32(kd:resnet56)", "wrn_10_1"),
        ("wrn_16_4", "wrn_10_1"),
    ]


def test_the_numbers_of_a_pair() -> None:
    published = Published.model_validate(BLOCK)
    assert published.of_pair("wrn_16_2", "wrn_10_1") == ({"kd": 90, "student": 88}, {})
    assert published.of_pair("wrn_16_4", "wrn_10_1") == ({"student": 88}, {"best": 93})
    assert published.of_pair("wrn_16_4", "wrn_10_2") == ({}, {})


def test_names_of_pairs() -> None:
    assert split_pair(join_pair("resnet32(kd:resnet56)", "wrn_10_1")) == (
        "resnet32(kd:resnet56)",
        "wrn_10_1",
    )


def test_a_study_has_it_and_needs_none() -> None:
    content = study()
    assert parse_study(content).published == Published.model_validate(BLOCK)
    content.pop("published")
    assert parse_study(content).published is None


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"source": ""}, "published.source"),
        ({"test_acc": {}}, "published.test_acc"),
        ({"test_acc": {"kdd": {}}}, "published: test_acc.kdd: unknown method 'kdd'; did you mean"),
        (
            {"test_acc": {"at+kd": {"wrn_16_2->wrn_10_1": 90}}},
            "test_acc.at+kd: expected the spelling kd+at",
        ),
        ({"test_acc": {"kd": {"wrn_10_1": 90}}}, "test_acc.kd.wrn_10_1: expected TEACHER->STUDENT"),
        ({"test_acc": {"kd": {"wrn_16_2->": 90}}}, "expected TEACHER->STUDENT"),
        ({"test_acc": {"kd": {"wrn_16_2->wrm_10_1": 90}}}, "unknown model 'wrm_10_1'"),
        (
            {"test_acc": {"kd": {"wrn_16_2->wrn_20_2_x0.5": 90}}},
            "test_acc.kd.wrn_16_2->wrn_20_2_x0.5",
        ),
        ({"test_acc": {"kd": {"wrn_16_2->wrn_10_2_x0.5": 90}}}, "the student's name is wrn_10_1"),
        (
            {"test_acc": {"kd": {"wrn_16_2->wrn_10_1 + gpfk 4": 90}}},
            "unknown compression 'gpfk'; did you mean gpfq",
        ),
        ({"test_acc": {"kd": {"wrn_16_2->wrn_10_1": 0}}}, "greater than 0"),
        ({"test_acc": {"kd": {"wrn_16_2->wrn_10_1": 101}}}, "less than or equal to 100"),
        ({"teacher": {"wrn_16_2": 101}}, "published.teacher.wrn_16_2"),
        ({"others": {"best": {"wrn_10_1": 90}}}, "others.best.wrn_10_1"),
        ({"protocol": {"epoch": 3}}, "unknown key 'epoch'; did you mean epochs"),
        ({"protocol": {"epochs": 0}}, "protocol.epochs: expected a whole number >= 1, got 0"),
        ({"accuracy": {}}, "published"),
    ],
)
def test_mistakes_are_named_in_one_line(changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_study(study(**changes))
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)

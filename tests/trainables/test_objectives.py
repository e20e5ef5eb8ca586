"""Objectives and constraints by name: what they are of, in a row, and what is refused."""

import json

import pytest

from trainables.columns import TRIALS
from trainables.config import TrialConfig
from trainables.constraints import named, read_constraint, read_constraints, violations
from trainables.errors import UserError
from trainables.objectives import check_objective, runtimes_for, value_of

LATENCIES = {"eager": {"1": {"median_ms": 2.0, "iqr_ms": 0.1}, "64": {"median_ms": 30.0}}}
ROW = {"val_acc": 0.8, "latency_ms": 6.75, "latencies": json.dumps(LATENCIES), "params": 900}


def test_latencies_by_runtime_have_names() -> None:
    column = check_objective("latency_eager_b64_ms")
    assert (column.unit, column.better, column.role) == ("ms", "min", "measured")
    assert "64" in column.help
    assert value_of(ROW, "latency_eager_b64_ms") == 30
    assert value_of(ROW, "latency_eager_ms") == 2
    assert value_of(ROW, "latency_ms") == 6.75
    assert (
        value_of({"latencies": json.dumps({"eager": {"error": "no"}})}, "latency_eager_ms") is None
    )
    assert value_of({}, "latency_eager_ms") is None
    assert runtimes_for(["val_acc", "latency_eager_b64_ms", "latency_ms", "latency_eager_ms"]) == [
        "eager"
    ]


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("latency_egaer_ms", "unknown objective 'latency_egaer_ms'; did you mean latency_eager_ms"),
        ("latency_eager_b8_ms", "unknown objective .*; did you mean latency_eager_"),
        ("latency_eager_b1_ms", "unknown objective .*; did you mean latency_eager_"),
        ("runtime", "unknown objective 'runtime'"),
        ("test_acc", "objective 'test_acc': selection is on validation columns only"),
    ],
)
def test_what_is_no_objective(name: str, line: str) -> None:
    with pytest.raises(UserError, match=line):
        check_objective(name)


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("latncy_ms", "<= 5", "unknown constraint 'latncy_ms'; did you mean latency_ms"),
        ("test_acc", ">= 0.9", "constraint 'test_acc': selection is on validation columns only"),
        (
            "latency_ms",
            "< 5",
            "expected <= or >= and a number, as in \"<= 5\", got '< 5'",
        ),
        ("latency_ms", "<= 5 ms", "constraint 'latency_ms': expected .*, got '<= 5 ms'"),
        ("latency_ms", "<= nan", "constraint 'latency_ms': expected .*, got '<= nan'"),
        ("latency_ms", "<= five", "constraint 'latency_ms': expected"),
        ("latency_ms", 5, "constraint 'latency_ms': expected .*, got 5"),
    ],
)
def test_what_is_no_constraint(name: str, text: object, line: str) -> None:
    with pytest.raises(UserError, match=line):
        read_constraint(name, text)


def test_violations_are_in_the_columns_own_unit() -> None:
    given = {"latency_ms": "<= 5", "val_acc": ">=0.9", "params": "<= 900", "macs": "<= 1e3"}
    constraints = read_constraints(given)
    found = violations(constraints, ROW)
    assert found == pytest.approx({"latency_ms": 1.75, "val_acc": 0.1})
    values = {name: ROW[name] for name in found}
    expected = "latency_ms is 6.75, expected <= 5 ms; val_acc is 0.8, expected >= 0.9"
    assert named(constraints, values) == expected  # type: ignore[arg-type]
    assert violations(read_constraints({"latency_eager_b64_ms": "<= 29"}), ROW) == {
        "latency_eager_b64_ms": 1.0
    }


@pytest.mark.parametrize(
    ("name", "bound", "value", "line"),
    [
        ("params", "<= 1234567", 1234568.0, "params is 1234568, expected <= 1234567"),
        ("size_bytes", "<= 3e5", 300001.0, "size_bytes is 300001, expected <= 300000 bytes"),
        ("latency_ms", "<= 5", 6.7512345678, "latency_ms is 6.75123, expected <= 5 ms"),
        ("latency_ms", "<= 5", 5.00000012, "latency_ms is 5.00000012, expected <= 5 ms"),
        ("val_acc", ">= 0.9123456", 0.91234559, "val_acc is 0.91234559, expected >= 0.9123456"),
    ],
)
def test_a_value_and_its_bound_are_told_apart(
    name: str, bound: str, value: float, line: str
) -> None:
    assert named([read_constraint(name, bound)], {name: value}) == line


def test_every_column_that_may_be_optimised_may_be_bounded() -> None:
    for name, column in TRIALS.items():
        if column.better and "test" not in column.needs:
            assert read_constraint(name, "<= 1").name == name


def test_a_config_says_what_times_its_student() -> None:
    config = TrialConfig.from_mapping({"latencies": "eager + eager"})
    assert config.runtimes == ["eager"]
    with pytest.raises(UserError, match="unknown runtime 'eagr'; did you mean eager"):
        TrialConfig.from_mapping({"latencies": "eager+eagr"})

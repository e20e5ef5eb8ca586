"""Studies over chains with another's steps: what settings exist, are drawn, and are refused."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from foreign import install, present
from foreign_chain import POINTS, THEIRS

from orchestrator.sweeps.journal import Journal
from orchestrator.sweeps.networks import check_networks
from orchestrator.sweeps.plan import Plan
from orchestrator.sweeps.source import OptunaSource
from search_spaces.load import override, parse_study
from search_spaces.schema import study_schema
from trainables.errors import UserError
from trainables.files import open_folder


@pytest.fixture
def installed(tmp_path: Path) -> Iterator[None]:
    """A package of somebody else, in this process."""
    with present(install(tmp_path / "site", "their_steps", THEIRS, POINTS), "their_steps"):
        yield


STUDY = {
    "name": "s",
    "dataset": "digits",
    "teacher": {"model": "wrn_16_2"},
    "fixed": {"student": "wrn_16_1", "trim.stages": 2},
    "dimensions": {
        "compression": ["factor", "factor+trim", "width"],
        "factor": [2, 4],
        "width": [0.5],
        "trim": [0.25, 0.5],
        "criterion": ["l1", "l2"],
    },
    "sampler": "grid",
}


def study(**changes):
    return parse_study(STUDY | changes)


def test_a_setting_exists_where_the_chain_has_its_part(installed: None) -> None:
    points = study().first_points()
    by_chain = {
        chain: [point for point in points if point["compression"] == chain]
        for chain in ("factor", "factor+trim", "width")
    }
    assert [len(found) for found in by_chain.values()] == [2, 8, 1]
    assert by_chain["width"] == [{"compression": "width", "width": 0.5}]
    assert all({*point} == {"compression", "factor"} for point in by_chain["factor"])
    config = study().config(by_chain["factor+trim"][-1])
    assert config.chain == {"factor": 4, "trim": 0.5, "trim.criterion": "l2", "trim.stages": 2}
    assert study().config(by_chain["width"][0]).chain == {"width": 0.5}


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "random"])
def test_samplers_draw_what_exists_and_without_values_what_is_worth_it(
    installed: None, tmp_path: Path, sampler: str
) -> None:
    compressions = ["factor", "factor+grid", "width"]
    dimensions = {"grid.criterion": ["mse", "mae"], "factor": None, "width": [0.5], "grid": [2, 4]}
    dimensions |= {"compression": compressions}
    spec = study(dimensions=dimensions, fixed={"student": "wrn_16_1"}, sampler=sampler, trials=40)
    source = OptunaSource(spec, Journal(open_folder(tmp_path / "j")), "s", [])
    seen = set()
    for number in range(40):
        (config,) = source.ask().configs
        row = {"trial_id": f"s-{number}", "status": "completed", "val_acc": 0.5}
        source.tell(number, [row | {"compression_params": 4.0}], answered=False)
        seen.add(config.compression)
        params = {*source.optuna.trials[number].params} - {"compression"}
        assert (
            params
            == {
                "factor": {"factor"},
                "factor+grid": {"factor", "grid", "grid.criterion"},
                "width": {"width"},
            }[config.compression]
        )
        assert 2 <= config.chain.get("factor", 2) <= 128
    assert seen == {*compressions}


def test_an_amount_implies_its_chain_where_none_is_said(installed: None) -> None:
    dimensions = {
        "method": ["student", "kd"],
        "trim": {"choices": [0.25], "when": {"method": ["kd"]}},
        "width": {"choices": [0.5], "when": {"method": ["student"]}},
        "criterion": {"choices": ["l2"], "when": {"method": ["kd"]}},
    }
    spec = study(dimensions=dimensions)
    configs = [spec.config(point) for point in spec.first_points()]
    assert [config.compression for config in configs] == ["width", "trim"]
    assert configs[1].chain["trim.criterion"] == "l2"


def test_values_from_the_shell(installed: None) -> None:
    content = override(STUDY, ["compression=explicit+trim", "trim=0.3", "trim.criterion=l2"])
    spec = parse_study(content)
    assert {spec.config(point).to_json() for point in spec.first_points()} == {
        spec.config({}).to_json()
    }
    config = spec.config({})
    assert (config.compression, config.chain["trim"]) == ("trim", 0.3)
    assert config.chain["trim.criterion"] == "l2"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"fixed": {"trim": 2}, "dimensions": {}},
            "fixed.trim: expected a number > 0 and <= 1, got 2",
        ),
        ({"fixed": {"trm": 2}}, "unknown key 'trm'; did you mean trim"),
        ({"dimensions": {"compression": ["factor", "factor+trim"], "factor": [2]}}, "trim: compr"),
        ({"dimensions": {"compression": ["trim+width"], "width": [1]}}, "comes first: width+trim"),
        ({"dimensions": {"compression": ["zip"]}}, "unknown compression 'zip'"),
        ({"dimensions": {"grid": {}}}, "dimensions.grid: expected a list of choices, or low and"),
        ({"dimensions": {"grid": None}}, "dimensions.grid: expected a list of choices, or low and"),
        ({"dimensions": {"trim": [0.1], "grid": [2]}}, "as in compression: trim+grid"),
        (
            {"dimensions": {"compression": ["trim+grid"], "trim": [0.1], "criterion": ["l1"]}},
            "criterion: is a setting of several parts; write trim.criterion or grid.criterion",
        ),
    ],
)
def test_mistakes_of_a_study_are_named(installed: None, changes: dict, said: str) -> None:
    with pytest.raises(UserError) as caught:
        study(**changes)
    assert said in str(caught.value)


def test_one_chain_in_two_spellings_stands_twice(installed: None) -> None:
    from search_spaces.checks import check_written

    spec = study(fixed={"trim": 0.5}, dimensions={"compression": ["trim", "explicit+trim"]})
    with pytest.raises(UserError, match=r"'trim' and 'explicit\+trim' are one value; leave one"):
        check_written(spec)


def test_editors_know_their_keys(installed: None) -> None:
    schema = study_schema()
    fixed = schema["properties"]["fixed"]["properties"]
    assert {"trim", "trim.criterion", "criterion", "half.spare", "factor"} <= {*fixed}
    assert fixed["trim"]["exclusiveMinimum"] == 0
    assert {"type": "null"} in schema["properties"]["dimensions"]["properties"]["trim"]["anyOf"]


def test_a_step_says_what_it_cannot_work_on_before_anything_starts(installed: None) -> None:
    fixed = {"compression": "explicit+trim", "trim": 0.5, "student": "wrn_16_1"}
    check_networks(Plan(study(fixed=fixed, dimensions={}), "s", "unused"))
    refused = study(fixed=fixed | {"student": "resnet8"}, dimensions={})
    with pytest.raises(UserError, match="trim: cannot work on a ResNet"):
        check_networks(Plan(refused, "s", "unused"))

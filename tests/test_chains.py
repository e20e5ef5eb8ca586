"""Compressions as chains: the grammar, the settings, the keys, with another's steps."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from foreign import install, present
from foreign_chain import POINTS, THEIRS

from orchestrator.cli import main
from trainables.compression.chain import Chain
from trainables.compression.registry import (
    PARTS,
    STEPS,
    canonical_chain,
    parse_chain,
    part_class,
    part_settings,
)
from trainables.config import TrialConfig
from trainables.errors import UserError
from trainables.experiment import asked, config_key


@pytest.fixture
def installed(tmp_path: Path) -> Iterator[None]:
    """A package of somebody else, in this process."""
    with present(install(tmp_path / "site", "their_steps", THEIRS, POINTS), "their_steps"):
        yield


BASE = {"student": "wrn_16_2", "teacher": "wrn_40_2"}


def make(**values: object) -> TrialConfig:
    return TrialConfig.from_mapping(BASE | values)


def key(config: TrialConfig, student: str = "wrn_16_1") -> str:
    return config_key(config, student=student, data_fingerprint="d", teacher_fingerprint="t")


# The grammar


def test_names_are_known_and_nothing_is_loaded(installed: None) -> None:
    names = [*PARTS]
    assert names[:4] == ["explicit", "depth", "width", "factor"]
    assert names[4 : 4 + len(STEPS)] == [*STEPS]
    assert names[4 + len(STEPS) :] == ["trim", "grid", "half", "lr"]
    assert PARTS.title("trim") == "what another package may do to a network"
    assert PARTS.title("explicit") == "the student as it is named"
    assert "their_steps" not in sys.modules
    assert parse_chain("depth") == ("depth", ())
    assert "their_steps" not in sys.modules
    assert part_class("factor").__module__ == "trainables.compression.factor"


@pytest.mark.parametrize(
    ("written", "choice", "steps", "canonical"),
    [
        ("explicit", "explicit", (), "explicit"),
        ("factor", "factor", (), "factor"),
        ("trim", "explicit", ("trim",), "trim"),
        ("explicit+trim", "explicit", ("trim",), "trim"),
        (" factor + trim+grid ", "factor", ("trim", "grid"), "factor+trim+grid"),
        ("factor+grid+trim", "factor", ("grid", "trim"), "factor+grid+trim"),
        ("half+grid", "half", ("grid",), "half+grid"),
    ],
)
def test_a_chain_is_read(
    installed: None, written: str, choice: str, steps: tuple[str, ...], canonical: str
) -> None:
    assert parse_chain(written) == (choice, steps)
    assert canonical_chain(written) == canonical
    assert canonical_chain(canonical) == canonical


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("factor+trmi", "unknown compression 'trmi'; did you mean trim?"),
        ("factro", "unknown compression 'factro'; did you mean factor?"),
        ("factor+", "unknown compression ''"),
        ("trim+grid+trim", "compression 'trim+grid+trim': 'trim' is named twice"),
        ("factor+factor", "compression 'factor+factor': 'factor' is named twice"),
        ("trim+factor+grid", "'factor' chooses the architecture and comes first: factor+trim+grid"),
        ("trim+explicit", "'explicit' chooses the architecture and comes first: explicit+trim"),
        ("factor+width", "'factor' and 'width' choose the architecture; leave one"),
        ("half+trim+depth", "'half' and 'depth' choose the architecture; leave one"),
    ],
)
def test_what_is_no_chain_is_refused(installed: None, written: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_chain(written)
    assert said in str(caught.value)
    with pytest.raises(UserError):
        make(compression=written)


@pytest.mark.parametrize("name", ["explicit", "depth", "width", "factor"])
def test_settings_of_choices_ask_for_a_network(name: str) -> None:
    for full, found in part_settings(name).items():
        assert found.role == "words"
        assert len(found.help) > 3
        for end in found.search or ():
            assert found.check(full, end) == end
        for bound, step in ((found.above, 0), (found.at_least, -1), (found.at_most, 1)):
            if bound is not None:
                with pytest.raises(UserError, match=rf"^{full}: expected .*, got "):
                    make(**{full: bound + step, "student": "mobilenetv2"})


# Settings


@pytest.mark.parametrize(
    ("values", "compression", "chain"),
    [
        ({}, "explicit", {}),
        ({"compression": "explicit+grid"}, "grid", {"grid": 8, "grid.criterion": "mse"}),
        ({"grid": "4"}, "grid", {"grid": 4, "grid.criterion": "mse"}),
        (
            {"compression": "factor+trim", "factor": 4, "trim": 0.5, "criterion": "l2"},
            "factor+trim",
            {"factor": 4.0, "trim": 0.5, "trim.criterion": "l2", "trim.stages": 3},
        ),
        (
            {"trim": 1, "criterion": "l2", "trim.criterion": "l1", "stages": 2},
            "trim",
            {"trim": 1.0, "trim.criterion": "l1", "trim.stages": 2},
        ),
        ({"compression": "half", "spare": True}, "half", {"half.spare": True}),
        # As rows of before had them: null where an amount was not asked for.
        ({"compression": "explicit", "depth": None, "width": None, "factor": None}, "explicit", {}),
        (
            {"compression": "width", "depth": None, "width": 1, "factor": None},
            "width",
            {"width": 1},
        ),
        ({"depth": None, "factor": 4}, "factor", {"factor": 4.0}),
    ],
)
def test_settings_are_complete_and_by_full_key(
    installed: None, values: dict[str, object], compression: str, chain: dict[str, object]
) -> None:
    config = make(**values)
    assert (config.compression, config.chain) == (compression, chain)
    assert TrialConfig.from_mapping(json.loads(config.to_json())) == config
    assert {"depth", "width", "factor"} & {*config.to_dict()} <= {compression.partition("+")[0]}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"compression": "trim"}, "trim: compression 'trim' needs its value"),
        ({"compression": "factor+trim", "trim": 0.5}, "factor: compression 'factor+trim' needs"),
        ({"compression": "grid+trim", "trim": None}, "trim: compression 'grid+trim' needs"),
        ({"trim": 2}, "trim: expected a number > 0 and <= 1, got 2"),
        ({"trim": 0.5, "trim.criterion": "l3"}, "trim.criterion: expected one of l1, l2, got"),
        ({"trim": 0.5, "trim.criterium": "l1"}, "unknown key 'trim.criterium'; did you mean trim"),
        ({"grid": 4, "critrion": "l1"}, "unknown key 'critrion'; did you mean criterion"),
        ({"explicit": 3}, "unknown key 'explicit'"),
        ({"compression": "grid", "trim": 0.5}, "trim: has no effect with compression grid"),
        ({"grid": 4, "trim.stages": 2}, "trim.stages: has no effect with compression grid"),
        ({"trim": 0.5, "grid": 4}, "trim, grid are given; say in which order, as in compression: "),
        ({"factor": 4, "trim": 0.5}, "as in compression: factor+trim"),
        ({"factor": 4, "depth": 3, "trim": 0.5}, "depth and factor are both given; choose one"),
        (
            {"compression": "trim+grid", "trim": 0.5, "criterion": "l1"},
            "criterion: is a setting of several parts; write trim.criterion or grid.criterion",
        ),
        (
            {"method": "kd+at", "trim": 0.5, "stages": "3"},
            "stages: is a setting of several parts; write at.stages or trim.stages",
        ),
        ({"compression": "lr"}, "compression 'lr': its 'lr' is another setting's name, too"),
    ],
)
def test_settings_that_mean_nothing_are_refused(
    installed: None, values: dict[str, object], said: str
) -> None:
    with pytest.raises(UserError) as caught:
        make(**values)
    assert said in str(caught.value)


def test_a_chain_is_made_of_a_config(installed: None) -> None:
    config = make(compression="half+trim+grid", trim=0.25)
    made = Chain(config.compression, config.chain)
    assert [type(step).__name__ for step in made.steps] == ["Trim", "Grid"]
    assert [step.config.amount for step in made.steps] == [0.25, 8]
    assert made.named("wrn_16_2") == "wrn_16_1"
    facts = {"teacher_params": None, "classes": 10, "image_shape": (1, 8, 8)}
    assert made.choose("wrn_16_2", **facts) == "wrn_16_1"
    by_factor = make(compression="factor+grid", factor=4)
    assert Chain(by_factor.compression, by_factor.chain).named("wrn") is None


# Keys and rows


def test_steps_decide_in_their_order_and_with_their_settings(installed: None) -> None:
    both = make(compression="trim+grid", trim=0.5)
    others = [
        make(),
        make(trim=0.5),
        make(trim=0.6),
        make(trim=0.5, criterion="l2"),
        make(grid=8),
        both,
        both.replace(compression="grid+trim"),
        both.replace(grid=4),
    ]
    assert len({key(config) for config in others}) == len(others)
    assert key(both) == "95c19834274ce0dc"
    assert key(both.replace(seed=1)) != key(both)


def test_the_choice_of_a_chain_is_words_for_a_network(installed: None) -> None:
    named = make(student="wrn_16_1", trim=0.5)
    for words in (
        {"compression": "explicit+trim"},
        {"compression": "width+trim", "width": 0.5},
        {"compression": "factor+trim", "factor": 4, "student": "wrn"},
        {"compression": "half+trim", "half.spare": True},
    ):
        assert key(make(trim=0.5, **words)) == key(named)
    assert key(make(compression="half")) == key(make())


def test_a_row_says_the_chain_and_the_amount_of_its_choice(installed: None) -> None:
    def words(**values: object) -> tuple[str | None, float | None]:
        row = asked(make(**values), "s", "s-0", 1, None)
        return row.compression_kind, row.compression_requested

    assert words(compression="factor+trim", factor=4, trim=0.5) == ("factor+trim", 4.0)
    assert words(compression="explicit+trim", trim=0.5) == ("trim", None)
    assert words(depth=3, student="mobilenetv2") == ("depth", 3.0)
    assert words() == ("explicit", None)


def test_a_trial_of_a_chain(installed: None, tmp_path: Path, capsys) -> None:
    words = "trial digits method=student epochs=1 teacher.epochs=1 train_fraction=0.2 "
    words += f"compression=factor+trim factor=35 trim=0.5 --results {tmp_path / 'results'}"
    assert main(words.split()) == 0
    printed = capsys.readouterr().out
    assert "student on digits: wrn_" in printed
    assert main(words.replace("trim=0.5", "trim=5").split()) == 2
    assert "trim: expected a number > 0 and <= 1, got 5" in capsys.readouterr().err

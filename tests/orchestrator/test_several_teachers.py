"""Further teachers of a study: which of them there are, in keys, work orders, notes and tables."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.cli import main
from orchestrator.results.front import over_seeds
from orchestrator.results.record import TEACHERS, read_record
from orchestrator.results.sharing import for_every_teacher
from orchestrator.results.store import Store
from orchestrator.sweeps import notes, sweep
from orchestrator.sweeps.confirm import choose
from orchestrator.sweeps.networks import check_networks
from orchestrator.sweeps.packing import largest
from orchestrator.sweeps.plan import Plan
from search_spaces.load import override, parse_study
from trainables.errors import UserError
from trainables.models.registry import create_model
from trainables.models.weights import save_network
from trainables.teachers.teacher import teacher_folder

STUDY: dict[str, Any] = {
    "name": "s",
    "dataset": "digits",
    "teacher": "resnet14",
    "teachers": {"wide": {"model": "wrn_10_1", "epochs": 2}, "deep": "resnet20"},
    "fixed": {"student": "resnet8", "epochs": 1},
    "dimensions": {"method": ["student", "kd", "mkd", "at"], "at.teacher": ["teacher", "wide"]},
    "sampler": "grid",
}
AT_WIDE = {"method": "at", "at.teacher": "wide"}


def plan(results: Path | str = "unused", *assignments: str, **changes: Any) -> Plan:
    return Plan(parse_study(override(STUDY | changes, assignments)), "s", str(results))


def names(recipes: Any) -> list[str]:
    return [one.name for one in recipes]


def test_what_is_trained_for_all_and_for_one_trial() -> None:
    made = plan()
    assert names(made.teachers.recipes) == ["resnet14", "wrn_10_1", "resnet20"]
    assert names(made.teachers.first) == ["resnet14"]
    wanted = {
        "student": ["resnet14"],
        "kd": ["resnet14"],
        "mkd": ["resnet14", "resnet20", "wrn_10_1"],
    }
    for method, expected in wanted.items():
        assert names(made.missing(made.study.config({"method": method}))) == expected
    assert names(made.missing(made.study.config(AT_WIDE))) == ["resnet14", "wrn_10_1"]
    there = {one.key for one in made.teachers.recipes[:2]}
    assert names(made.teachers.missing(there)) == ["resnet20"]


def test_what_no_trial_reads_is_not_trained() -> None:
    assert names(plan("unused", "method=kd").teachers.recipes) == ["resnet14"]
    only = plan("unused", "method=at", "at.teacher=deep")
    assert names(only.missing()) == ["resnet14", "resnet20"]


def test_a_job_names_the_files_of_those_that_its_trial_reads() -> None:
    made = plan()
    job = made.job(made.study.config({"method": "mkd"}), "s-00000", 1)
    first, wide, deep = (one.key for one in made.teachers.recipes)
    assert (job.teacher, job.others) == (first, {"wide": (wide, None), "deep": (deep, None)})
    assert made.job(made.study.config({"method": "kd"}), "s-00000", 1).others == {}
    assert made.job(made.study.config(AT_WIDE), "s-00000", 1).others == {"wide": (wide, None)}


def test_keys_are_of_the_teachers_that_are_read() -> None:
    alone = plan(teachers={}, dimensions={"method": ["student", "kd", "at"]})
    made = plan()
    for method in ("student", "kd", "at"):
        taught = {"method": method} | ({"at.teacher": "teacher"} if method == "at" else {})
        assert made.key(made.study.config(taught)) == alone.key(alone.study.config(taught))
    drawn: list[dict[str, Any]] = [{"method": "mkd"}, {**AT_WIDE}, {"method": "at"}]
    assert len({made.key(made.study.config(one)) for one in drawn}) == 3


# Imported ones, which are there


NAMED: dict[str, Any] = {
    "teacher": {"name": "first"},
    "teachers": {"wide": {"name": "second"}, "deep": {"name": "third"}},
}


def begun(results: Path, imported: Any) -> Plan:
    """A sweep as it stands when its first trial starts."""
    for seed, name in enumerate(("first", "second", "third")):
        imported(seed, name)
    made = plan(results, **NAMED).with_teachers()
    notes.write_study(made)
    return made


def test_a_further_teacher_that_was_replaced_is_refused(tmp_path: Path, imported: Any) -> None:
    results = tmp_path / "results"
    made = begun(results, imported)
    options = sweep.Options(results=str(results))
    noted = read_record(Store(str(results), "s")).notes[TEACHERS]
    assert noted == {name: made.cards[name].fingerprint for name in ("first", "second", "third")}
    assert sweep.reopen("s", options).cards == made.cards
    config = made.study.config({"method": "mkd"})
    before = made.key(config)
    assert made.job(config, "s-00000", 1).others == {
        "wide": ("second", noted["second"]),
        "deep": ("third", noted["third"]),
    }
    imported(9, "third", replacing=True)
    with pytest.raises(UserError, match=r"^teacher 'third' has changed since the sweep began"):
        sweep.reopen("s", options)
    after = plan(results, **NAMED).with_teachers()
    assert after.key(config) != before
    for drawn in ({"method": "kd"}, AT_WIDE):  # they do not read it
        assert after.key(after.study.config(drawn)) == made.key(made.study.config(drawn))


def test_an_edit_of_a_further_teacher_is_named(tmp_path: Path, imported: Any) -> None:
    results = tmp_path / "results"
    begun(results, imported)
    path = results / "s" / "study.yaml"
    content = yaml.safe_load(path.read_text())
    content["teachers"]["wide"]["name"] = "first"
    content["teacher"]["name"] = "second"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    with pytest.raises(UserError) as caught:
        sweep.reopen("s", sweep.Options(results=str(results)))
    assert 'teacher.name was "first" and is "second" now' in str(caught.value)
    content["teacher"]["name"] = "first"
    content["teachers"]["wide"] = {"name": "fourth"}
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    with pytest.raises(UserError) as caught:
        sweep.reopen("s", sweep.Options(results=str(results)))
    assert 'teachers.wide.name was "second" and is "fourth" now' in str(caught.value)


def test_one_that_is_missing_is_named_by_its_key(tmp_path: Path, imported: Any) -> None:
    imported(0, "first")
    with pytest.raises(UserError, match=r"^teachers.wide.name: there is no teacher 'second' in"):
        plan(tmp_path / "results", **NAMED).with_teachers()
    # Not where no trial reads it.
    assert plan(tmp_path / "results", "method=kd", **NAMED).with_teachers().missing() == []


def remarks(of: Plan) -> list[str]:
    """Those besides that drawn weights guess."""
    return [line for line in of.remarks if "hardly more than guessing" not in line]


def test_one_of_other_data_or_classes(tmp_path: Path, imported: Any) -> None:
    made = begun(tmp_path / "results", imported)
    assert remarks(made) == []
    folder, card = teacher_folder(made.results), made.cards["third"]
    network = create_model("resnet8_x0.5", 10, (1, 8, 8))
    turned = tuple(card.class_names[::-1])
    other = replace(card, data_fingerprint="0" * 64, dataset="turned", class_names=turned)
    other = replace(other, mean=(0.5,), std=(0.5,))  # of which those are told who begin with it
    save_network(folder, "third.safetensors", network, other)
    (remark,) = remarks(made.with_teachers())
    going_on = plan(made.results, "start=teacher", "student=resnet8_x0.5", **NAMED)
    assert remarks(going_on.with_teachers()) == [remark], "students begin with the first"
    assert remark.startswith("teacher 'third' was made for other data (turned), whose classes")
    save_network(
        *(folder, "third.safetensors", network),
        replace(other, class_names=("eleven", *turned[1:])),
    )
    with pytest.raises(UserError, match=r"^teacher 'third' has other classes than dataset"):
        made.with_teachers()


# Networks


def test_every_teacher_is_tried_with_the_terms_that_read_it() -> None:
    """Student and teacher have four stages, wide three."""
    check_networks(plan())
    changes: dict[str, Any] = {
        "teacher": "resnet18",
        "teachers": {"wide": "wrn_10_1"},
        "fixed": {"student": "mobilenetv2", "fitnet.hint": 3},
        "dimensions": {"method": ["fitnet"]},
    }
    check_networks(plan(**changes))
    changes["dimensions"] |= {"fitnet.teacher": ["teacher", "wide"]}
    with pytest.raises(UserError, match=r"method fitnet: fitnet.hint: the networks have 3 pairs"):
        check_networks(plan(**changes))
    with pytest.raises(UserError, match=r"teachers.wide.model: model 'wrn_9_1': depth"):
        check_networks(plan(teachers={"wide": "wrn_9_1", "deep": "resnet20"}))


def test_memory_is_measured_with_the_most_teachers() -> None:
    assert largest(plan()).method == "mkd"


# What is said


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    Path("s.yaml").write_text(yaml.safe_dump(STUDY, sort_keys=False))
    return "s.yaml"


def told(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main([*words]) == 0
    return "\n".join(" ".join(line.split()) for line in capsys.readouterr().out.splitlines())


def test_a_rehearsal_tells_them(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = told(capsys, "run", file, "--dry-run")
    for name in ("resnet14", "wrn_10_1, wide", "resnet20, deep"):
        assert f"teacher {name} to be trained first: epochs " in text
    assert "at.teacher teacher, wide" in text


def test_a_study_is_shown_with_them(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = told(capsys, "studies", file)
    assert "wide {'model': 'wrn_10_1', 'epochs': 2}" in text
    assert "deep {'model': 'resnet20'}" in text


@pytest.mark.slow
def test_teachers_are_trained_before_and_a_trial_reads_them(
    file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["epochs=1", "train_fraction=0.05", "teacher.model=resnet8_x0.25"]
    small += ["teachers.wide.model=wrn_10_0.5", "teachers.deep=resnet8_x0.5"]
    small += ["student=resnet8_x0.25"]
    text = told(capsys, "teacher", "train", file, *(w for one in small for w in ("--set", one)))
    assert [line.split()[1] for line in text.splitlines() if "on the test set" in line] == [
        *("resnet8_x0.25", "wrn_10_0.5", "resnet8_x0.5"),
    ]
    text = told(capsys, "trial", file, *small, "method=mkd")
    assert 'teachers {"deep": "resnet8_x0.5", "wide": "wrn_10_0.5"}' in text
    assert "training the teacher" not in text


# Tables


def with_others(trial_row: Any, number: int, roles: dict[str, str], **columns: Any) -> Any:
    settings = {f"teachers.{role}": name for role, name in roles.items()}
    settings |= {"mkd.alpha": 0.9, "mkd.temperature": 4.0, "mkd.weighting": "equal"}
    return trial_row(
        number, "mkd", settings=settings, teachers=json.dumps(roles), val_acc=0.7, **columns
    )


def test_other_teachers_are_no_repeats(recorded: Any, trial_row: Any) -> None:
    rows = [
        with_others(trial_row, 0, {"wide": "wrn_16_1"}, seed=0),
        with_others(trial_row, 1, {"wide": "wrn_16_1"}, seed=1),
        with_others(trial_row, 2, {"wide": "wrn_16_4"}, seed=0),
        trial_row(3, "at", settings={"at.teacher": "wide", "teachers.wide": "w"}, val_acc=0.7),
        trial_row(4, "at", settings={}, val_acc=0.7),
    ]
    points = over_seeds(recorded(rows))
    assert sorted(points["trial_ids"]) == ["s-00000 s-00001", "s-00002", "s-00003", "s-00004"]


def test_a_plain_student_has_no_further_teachers(recorded: Any, trial_row: Any) -> None:
    rows = [
        with_others(trial_row, 0, {"wide": "wrn_16_1"}, student="wrn_10_1"),
        trial_row(1, "student", student="wrn_10_1", teacher="resnet56", val_acc=0.6),
    ]
    shared = for_every_teacher(recorded(rows))
    plain = shared[shared["method"] == "student"]
    assert sorted(plain["teacher"]) == ["resnet56", "wrn_40_2"]
    assert plain["teachers"].isna().all()


def test_what_is_confirmed_keeps_them_and_the_plain_student_has_none(
    recorded: Any, trial_row: Any, tmp_path: Path
) -> None:
    recorded([with_others(trial_row, 0, {"wide": "wrn_16_1"})])
    groups = choose("s", str(tmp_path / "results"), 2)
    found = {group[0].method: dict(group[0].teachers) for group in groups}
    assert found == {"mkd": {"wide": "wrn_16_1"}, "student": {}}

"""The study of a sweep as it began: an edit is seen and named, what means the same is none."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from orchestrator.cli import main
from orchestrator.results.record import read_record, read_study, write_record
from orchestrator.results.store import Store
from orchestrator.sweeps.plan import Plan
from orchestrator.sweeps.sweep import Options, reopen
from search_spaces.load import load_study, parse_study
from trainables.errors import UserError

STUDY = {
    "name": "own",
    "dataset": "digits",
    "teacher": {"model": "wrn_10_1", "epochs": 2},
    "fixed": {"student": "wrn", "compression": "factor", "epochs": 2},
    "dimensions": {
        "method": ["student", "kd"],
        "factor": [2, 4],
        "kd.temperature": {"low": 1, "high": 8, "log": True},
    },
    "cover": ["method"],
    "trials": 5,
}

Edit = Callable[[dict], object]


@pytest.fixture
def store(tmp_path) -> Store:
    """A sweep `s` that has begun."""
    made = Store(tmp_path / "results", "s")
    fingerprint = Plan(parse_study(STUDY), "s", "unused").dataset.fingerprint
    notes = {"data_dir": None, "data_fingerprint": fingerprint, "versions": {"torch": "2"}}
    write_record(made, parse_study(STUDY), notes)
    return made


def file_of(store: Store) -> Path:
    return Path(store.folder.path, "study.yaml")


def edit(store: Store, change: Edit) -> None:
    content = yaml.safe_load(file_of(store).read_text())
    change(content)
    file_of(store).write_text(yaml.safe_dump(content, sort_keys=False))


def refusal(store: Store) -> str:
    """The one line by which a sweep is not gone on with; nothing is touched by it."""
    before = {path: path.read_bytes() for path in Path(store.results.path).rglob("*.yaml")}
    with pytest.raises(UserError) as caught:
        reopen("s", Options(results=store.results.path))
    text = str(caught.value)
    assert "\n" not in text
    assert len(text.replace(store.results.path, "R")) < 300
    assert before == {path: path.read_bytes() for path in Path(store.results.path).rglob("*")
                      if path.is_file()}  # fmt: skip
    return text


def test_a_sweep_knows_how_it_began(store, caplog):
    record = read_record(store)
    assert (record.study, record.sweep) == (parse_study(STUDY), "s")
    assert record.notes["versions"] == {"torch": "2"}
    assert read_study(store) == record.study
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda c: c["dimensions"]["factor"]["choices"].append(8),
         "dimensions.factor.choices was [2, 4] and is [2, 4, 8] now"),
        (lambda c: c["dimensions"]["factor"]["choices"].reverse(),
         "dimensions.factor.choices was [2, 4] and is [4, 2] now"),
        (lambda c: c["fixed"].update(epochs=3), "fixed.epochs was 2 and is 3 now"),
        (lambda c: c["fixed"].update(lr=0.1), "fixed.lr was added (0.1)"),
        (lambda c: c["fixed"].pop("epochs"), "fixed.epochs was removed (it was 2)"),
        (lambda c: c["teacher"].update(epochs=9), "teacher.epochs was 2 and is 9 now"),
        (lambda c: c["dimensions"]["kd.temperature"].update(high=9),
         "dimensions.kd.temperature.high was 8.0 and is 9.0 now"),
        (lambda c: c["dimensions"].pop("kd.temperature"), "dimensions.kd.temperature was removed"),
        (lambda c: c.update(trials=200), "trials was 5 and is 200 now"),
        (lambda c: c.update(repeats=2), "repeats was 1 and is 2 now"),
        (lambda c: c.update(objectives={"val_acc": "max"}),
         'objectives.compression_params was removed (it was "max")'),
        (lambda c: c.update(description="x" * 4000), 'description was "" and is "xxxx'),
        (lambda c: c.pop("cover"), 'cover was ["method"] and is [] now'),
        (lambda c: c.update(dataset="digit"), 'dataset was "digits" and is "digit" now'),
    ],
)  # fmt: skip
def test_an_edit_is_named_and_can_be_undone(store, change, expected):
    before = file_of(store).read_bytes()
    edit(store, change)
    text = refusal(store)
    assert f"sweep 's': {expected}" in text
    assert f"kdsweep run {store.folder}/study.yaml --name NAME" in text
    file_of(store).write_bytes(before)
    assert reopen("s", Options(results=store.results.path)).study == parse_study(STUDY)


def test_the_edited_study_begins_another_sweep(store):
    edit(store, lambda content: content.update(trials=200))
    assert load_study(str(file_of(store))) == parse_study(STUDY | {"trials": 200})


def turned(content: dict) -> None:
    for block in (content, content["fixed"], content["dimensions"]):
        for key in list(block)[::-1]:
            block[key] = block.pop(key)


@pytest.mark.parametrize(
    "change",
    [
        turned,
        lambda content: content.update(repeats=1, sampler="tpe"),  # as by default
        lambda content: content["dimensions"]["factor"].update(choices=[2.0, 4.0]),
        lambda content: content["dimensions"].update(factor=[2, 4]),
    ],
)
def test_what_means_the_same_is_no_edit_and_goes_on_as_it_began(store, change):
    edit(store, change)
    file_of(store).write_text("# mine\n\n" + file_of(store).read_text() + "  # here, too\n")
    plan = reopen("s", Options(results=store.results.path))
    assert plan.study == parse_study(STUDY)
    # The order of dimensions is the order in which they are drawn.
    assert list(plan.study.dimensions) == list(STUDY["dimensions"])


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "study.yaml is empty: expected keys and values"),
        (b"# nothing\n", "study.yaml is empty"),
        (b"- a\n- b\n", "study.yaml is no study: expected keys and values"),
        (b"1: a\n", "study.yaml is no study"),
        (b"a: [1\nb: }", "study.yaml is no YAML"),
        (b"\x00\xff\xfe", "study.yaml is no text"),
        (b"dataset: digits\ndataset: digits\n", "key 'dataset' stands twice"),
        (b"dataset: digits\n", "key 'kdsweep' is missing"),
        (b"dataset: digits\nkdsweep: 3\n", "'kdsweep' has no keys and values"),
        (None, "study.yaml is missing"),
    ],
)
def test_a_damaged_study_is_one_line(store, content, expected):
    Store(store.results, "s").add_trial({"trial_id": "s-00000", "attempt": 1})  # it is a sweep
    file_of(store).unlink() if content is None else file_of(store).write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_record(store)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_instead_of_a_study(store, capsys):
    file_of(store).unlink()
    file_of(store).mkdir()
    for verb in (["resume", "s"], ["front", "s"], ["table", "s", "--against", "published"]):
        assert main([*verb, "--results", store.results.path]) == 2
        told = capsys.readouterr().err
        assert "study.yaml cannot be read" in told
        assert told.count("\n") == 1


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda notes: notes.pop("data_fingerprint"), "'kdsweep.data_fingerprint' is missing"),
        (lambda notes: notes.update(data_dir=3), "'kdsweep.data_dir' is 3"),
        (lambda notes: notes.pop("sweep"), "'kdsweep.sweep' is missing"),
        (lambda notes: notes.update(sweep="a b"), "sweep name 'a b'"),
        (lambda notes: notes.pop("study"), "does not match its digest"),
        (lambda notes: notes.pop("study_digest"), "does not match its digest"),
        (lambda notes: notes.update(study="{}"), "does not match its digest"),
    ],
)
def test_damaged_notes_are_one_line(store, change, expected):
    edit(store, lambda content: change(content["kdsweep"]))
    assert expected in refusal(store)


def test_an_edit_of_all_places_at_once_is_seen(store):
    """As an editor's replace-all, or sed, would do it."""
    file_of(store).write_text(file_of(store).read_text().replace("wrn_10_1", "wrn_16_1"))
    assert "does not match its digest" in refusal(store)


def test_sweeps_of_an_older_version_go_on_and_say_what_nobody_can_know(store, caplog):
    def forget(content: dict) -> None:
        del content["kdsweep"]["study"], content["kdsweep"]["study_digest"]
        content["dimensions"]["factor"] = [2, 4, 2]  # which was no mistake then

    edit(store, forget)
    assert reopen("s", Options(results=store.results.path)).study.trials == 5
    assert "an older version began this sweep and kept no record" in caplog.text


def test_the_record_is_the_study_and_nothing_else(store):
    notes = yaml.safe_load(file_of(store).read_text())["kdsweep"]
    assert parse_study(json.loads(notes["study"])) == parse_study(STUDY)
    assert re.fullmatch(r"[0-9a-f]{16}", notes["study_digest"])

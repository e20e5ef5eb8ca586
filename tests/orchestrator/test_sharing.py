"""Trials that read no teacher count beside every teacher that has their student."""

import json

import pandas as pd
import pytest

from orchestrator.query import trials
from orchestrator.results.sharing import for_every_teacher
from orchestrator.results.tables import compression_table, render
from search_spaces.load import load_study, parse_study


def panels(results):
    return {
        panel.cells[0].teacher: panel for panel in compression_table(trials(results, ["s"])).panels
    }


def test_the_compare_layout_has_no_empty_cell(booked):
    """Both teachers of MobileNetV2 show its plain training, which was done once."""
    study = load_study("compare_kd_cifar100", ["repeats=2"])
    results = booked(study, lambda config: 0.7 + 0.01 * config.seed + len(config.method) / 1000)
    found = panels(results)
    assert {teacher: panel.columns for teacher, panel in found.items()} == {
        "resnet18": ["mobilenetv2_s2 (4.8x)"],
        "wrn_40_2": ["wrn_40_1 (4.0x)"],
        "wrn_40_4": ["wrn_16_4 (3.2x)", "mobilenetv2_s2 (3.8x)", "wrn_16_2 (12.8x)"],
    }
    frame = trials(results, ["s"])
    assert len(frame) == 2 * (5 * 8 - 1)
    table = compression_table(frame)
    assert "–" not in render(table)
    assert all(len(p.cells) == len(p.columns) * 8 for p in table.panels)
    assert all(cell.n == 2 for panel in table.panels for cell in panel.cells)
    mobile = [cell for cell in found["resnet18"].cells if cell.method == "student"]
    assert mobile[0].compression_params == pytest.approx(4.768, abs=1e-3)
    assert mobile[0].mean == pytest.approx(0.712)
    # The difference to the plain student is there, too.
    assert all(
        cell.diff is not None for cell in found["resnet18"].cells if cell.method != "student"
    )
    assert "16 finished trials" in found["resnet18"].caption
    assert "Each cell has one config: nothing was chosen." in found["resnet18"].caption


def own(pairs, **changes):
    content = {
        "name": "own",
        "dataset": "cifar100",
        "pairs": pairs,
        "dimensions": {"method": ["student", "kd"]},
        "sampler": "grid",
        "fixed": {"val_fraction": 0},
        "objectives": {"compression_params": "max"},
    }
    return parse_study({**content, **changes})


def test_what_a_teacher_has_of_its_own_is_not_replaced(booked):
    """The pairs' plain students differ: each panel shows its own, and has no rival."""
    study = own({"wrn_16_2->wrn_10_1": {"lr": 0.1}, "wrn_16_4->wrn_10_1": {"lr": 0.2}})
    found = panels(booked(study, lambda config: config.lr))
    shown = {
        teacher: {cell.method: cell.mean for cell in panel.cells}
        for teacher, panel in found.items()
    }
    assert shown == {
        "wrn_16_2": {"student": 0.1, "kd": 0.1},
        "wrn_16_4": {"student": 0.2, "kd": 0.2},
    }
    assert all("nothing was chosen" in panel.caption for panel in found.values())


def test_the_better_of_lent_configs_is_chosen_on_validation(booked):
    """Of three pairs two share a plain student; the third teacher gets the best of the lent."""
    study = own(
        {"wrn_16_2->wrn_10_1": {"lr": 0.1}, "wrn_16_4->wrn_10_1": {"lr": 0.2}, "x": OTHER},
        fixed={"val_fraction": 0.1},
    )
    frame = trials(booked(study, lambda config: config.lr), ["s"])
    frame["val_acc"] = frame["val_score"] = [
        0.9 if row.test_acc == 0.1 else 0.1 for row in frame.itertuples()
    ]
    frame = frame[(frame["teacher"] != "wrn_40_2") | (frame["method"] == "kd")]
    cells = {
        (panel.cells[0].teacher, cell.method): cell.mean
        for panel in compression_table(frame).panels
        for cell in panel.cells
    }
    assert cells["wrn_40_2", "student"] == 0.1
    assert cells["wrn_16_4", "student"] == 0.2


OTHER = {"teacher": "wrn_40_2", "student": "wrn_10_1", "lr": 0.3}


def beside_another(frame):
    """The plain student's second seed was trained beside wrn_16_4 instead of wrn_16_2."""
    frame = frame.copy()
    moved = (frame["method"] == "student") & (frame["seed"] == 1)
    assert moved.sum() == 1
    frame.loc[moved, "teacher"] = "wrn_16_4"
    frame.loc[moved, "config"] = frame.loc[moved, "config"].str.replace("wrn_16_2", "wrn_16_4")
    return frame


def test_seeds_come_from_wherever_they_were_trained(booked):
    """A twin whose first failed is trained itself: the cell has both seeds."""
    study = own({"wrn_16_2->wrn_10_1": {}, "wrn_16_4->wrn_10_1": {}}, repeats=2)
    frame = trials(booked(study, lambda config: 0.5 + config.seed / 10), ["s"])
    table = compression_table(beside_another(frame))
    students = [cell for p in table.panels for cell in p.cells if cell.method == "student"]
    assert [(cell.n, cell.mean) for cell in students] == [(2, pytest.approx(0.55))] * 2


def test_only_the_same_student_of_the_same_sweep_is_lent(booked):
    one = own({"wrn_16_2->wrn_10_1": {}, "wrn_16_4->wrn_10_2": {}})
    booked(one, lambda config: 0.5)
    results = booked(own({"wrn_40_2->wrn_10_1": {}}), lambda config: 0.5, sweep="t")
    frame = trials(results, ["s", "t"])
    assert len(for_every_teacher(frame)) == len(frame)


def test_a_trial_that_failed_is_not_lent(booked):
    study = own({"wrn_16_2->wrn_10_1": {}, "wrn_16_4->wrn_10_1": {}}, repeats=2)
    frame = trials(booked(study, lambda config: 0.5), ["s"])
    assert len(for_every_teacher(frame)) == len(frame) + 2
    failed = (frame["method"] == "student") & (frame["seed"] == 1)
    frame.loc[failed, "status"] = "failed"
    lent = for_every_teacher(frame)[len(frame) :]
    assert list(zip(lent["status"], lent["seed"], strict=True)) == [("completed", 0)]


def test_methods_that_read_the_teacher_are_never_lent(booked):
    study = own({"wrn_16_2->wrn_10_1": {}, "wrn_16_4->wrn_10_1": {}})
    frame = trials(booked(study, lambda config: 0.5), ["s"])
    shared = for_every_teacher(frame)
    lent = shared[len(frame) :]
    assert list(zip(lent["method"], lent["teacher"], strict=True)) == [("student", "wrn_16_4")]
    assert '"teacher": "wrn_16_4"' in lent["config"].iloc[0]
    assert len(shared) == len(frame) + 1


def test_what_a_row_says_of_its_teacher_is_not_lent(booked):
    study = own({"wrn_16_2->wrn_10_1": {}, "wrn_16_4->wrn_10_1": {}})
    frame = trials(booked(study, lambda config: 0.5), ["s"])
    frame["teacher_note"] = "of " + frame["teacher"]
    shared = for_every_teacher(frame)
    assert len(shared) > len(frame)
    assert shared["teacher_note"].tolist() == ("of " + shared["teacher"]).tolist()
    for column in ("teacher_test_acc", "teacher_params", "compression_params"):
        assert (shared.groupby("teacher")[column].nunique() == 1).all()


def test_confirmed_students_are_lent_too(booked):
    """Also to a teacher beside which one seed of the search was trained."""
    pairs = {"wrn_16_2->wrn_10_1": {}, "wrn_16_4->wrn_10_1": {}}
    study = own(pairs, fixed={"val_fraction": 0.1}, repeats=2)
    frame = trials(booked(study, lambda config: 0.5), ["s"])
    confirmed = frame.assign(stage="confirm", trial_id=frame["trial_id"] + "-c")
    confirmed["test_acc"] = confirmed["test_score"] = 0.6
    confirmed["config"] = confirmed["config"].str.replace(
        '"val_fraction":0.1', '"val_fraction":0.0'
    )
    confirmed["config_key"] += "-c"
    table = compression_table(pd.concat([beside_another(frame), confirmed]))
    shown = [(cell.stage, cell.mean, cell.n) for panel in table.panels for cell in panel.cells]
    assert shown == [("confirm", 0.6, 2)] * 4


def test_a_method_that_is_not_installed_is_lent_to_nobody(booked):
    study = own({"wrn_16_2->wrn_10_1": {}, "wrn_16_4->wrn_10_1": {}})
    frame = trials(booked(study, lambda config: 0.5, method="of_a_plugin"), ["s"])
    assert len(for_every_teacher(frame)) == len(frame) == 3


def test_a_lent_student_keeps_its_own_size(booked):
    """Steps left the students of a request unequal: the factor is that of what is lent."""
    study = own({"wrn_16_2->wrn_10_1": {}, "wrn_16_4->wrn_10_1": {}})
    frame = trials(booked(study, lambda config: 0.5, compression_kind="prune"), ["s"])
    frame["params"] = [1000 + 10 * number for number in range(len(frame))]
    frame["student"] = [f"wrn_10_1~{number}" for number in range(len(frame))]
    frame["compression_params"] = frame["teacher_params"] / frame["params"]
    lent = for_every_teacher(frame)[len(frame) :]
    plain = frame[frame["method"] == "student"]
    assert lent["params"].tolist() == plain["params"].tolist()
    assert lent["student"].tolist() == plain["student"].tolist()
    assert lent["compression_params"].tolist() == pytest.approx(
        (lent["teacher_params"] / lent["params"]).tolist()
    )


def test_only_the_same_steps_lend(recorded, trial_row):
    def row(number, method, teacher, factor, amount):
        words = {"compression": "factor+prune", "prune": amount, "teacher": teacher}
        return trial_row(
            number,
            method,
            factor,
            settings=words,
            compression_kind="factor+prune",
            teacher=teacher,
            student=f"wrn_10_1~{number:012x}",
            test_acc=0.5,
        )

    frame = recorded(
        [
            row(0, "student", "wrn_16_2", 4, 0.5),
            row(1, "kd", "wrn_40_2", 9, 0.5),
            row(2, "kd", "wrn_16_4", 9, 0.75),
        ]
    )
    (lent,) = for_every_teacher(frame)[len(frame) :].to_dict("records")
    assert (lent["teacher"], lent["compression_requested"]) == ("wrn_40_2", 9)
    config = json.loads(lent["config"])
    assert (config["teacher"], config["factor"], config["prune"]) == ("wrn_40_2", 9.0, 0.5)
    assert lent["student"] == "wrn_10_1~000000000000"


def test_what_a_method_reads_of_a_teacher_is_not_lent_to_the_plain_student(booked):
    """Neither maps nor further teachers, which the student has not seen."""
    study = own({"wrn_16_2->wrn_10_1": {}, "wrn_16_4->wrn_10_1": {}})
    frame = trials(booked(study, lambda config: 0.5), ["s"])
    taught = frame["method"] == "kd"
    frame.loc[taught, ["attribution_maps", "teachers"]] = ['{"steps": 50}', '{"wide": "wrn_40_2"}']
    lent = for_every_teacher(frame)[len(frame) :]
    assert len(lent) == 1
    assert lent[["attribution_maps", "teachers"]].isna().all(axis=None)

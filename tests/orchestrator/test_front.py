"""Averages over seeds and the non-dominated front, selected on validation only."""

import itertools
import json
import math

import numpy as np
import pandas as pd
import pytest

from orchestrator.results.front import (
    OBJECTIVES,
    collapsed,
    front,
    non_dominated,
    nothing_finished,
    objectives_of,
    over_seeds,
    with_confirmation,
)
from orchestrator.results.store import Store
from trainables.errors import UserError

BOTH = {"val_acc": "max", "compression_params": "max"}


def dominated(rows: np.ndarray, i: int) -> bool:
    """The definition, row by row; every column is to be maximised."""
    return any((row >= rows[i]).all() and (row > rows[i]).any() for row in rows)


@pytest.mark.parametrize(("seed", "columns"), itertools.product(range(6), (1, 2, 3)))
def test_front_agrees_with_the_definition(seed, columns):
    draw = np.random.default_rng(seed)
    rows = draw.integers(0, 6, (60, columns)).astype(float)  # few values: many ties
    rows[draw.random(rows.shape) < 0.05] = np.nan
    names = [f"x{i}" for i in range(columns)]
    ways = ["min" if i == 1 else "max" for i in range(columns)]
    signs = np.array([1 if way == "max" else -1 for way in ways])
    frame = pd.DataFrame(rows, columns=names, index=draw.permutation(60))
    mask = non_dominated(frame, dict(zip(names, ways, strict=True)))
    complete = ~np.isnan(rows).any(axis=1)
    expected = [
        bool(complete[i]) and not dominated((rows * signs)[complete], complete[:i].sum())
        for i in range(60)
    ]
    assert mask.index.equals(frame.index)
    assert mask.tolist() == expected


def test_front_is_exact_where_sums_are_not():
    """1e17 + 1 and 1e17 + 2 are one float, so the sum hides that the second row is better."""
    rows = [(1e17, 1.0), (1e17, 2.0), (0.0, 5.0), (0.0, 4.0)]
    frame = pd.DataFrame(rows, columns=["val_acc", "compression_params"])
    assert non_dominated(frame, BOTH).tolist() == [False, True, True, False]


def test_front_of_nothing_and_of_missing_values():
    frame = pd.DataFrame({"val_acc": [math.nan, math.nan], "compression_params": [1.0, 2.0]})
    assert non_dominated(frame, BOTH).tolist() == [False, False]
    assert non_dominated(frame.iloc[:0], BOTH).tolist() == []


def test_wrong_objectives_are_named():
    frame = pd.DataFrame({"val_acc": [0.5]})
    with pytest.raises(UserError, match="unknown objective 'val_ac'; did you mean val_acc"):
        non_dominated(frame, {"val_ac": "max"})
    with pytest.raises(UserError, match="unknown direction of objective val_acc 'maximum'"):
        non_dominated(frame, {"val_acc": "maximum"})


def test_equal_points_are_one_row_with_their_number(recorded, trial_row):
    frame = recorded(
        [
            trial_row(0, "kd", 2, val_acc=0.75),
            trial_row(1, "at", 2, val_acc=0.75),
            trial_row(2, "student", 2, val_acc=0.75),
            trial_row(3, "dist", 4, val_acc=0.70),
            trial_row(4, "at", 4, val_acc=0.70),
            trial_row(5, "kd", 2, val_acc=0.75, dataset="other"),
            trial_row(6, "kd", 8, val_acc=0.65),
        ]
    )
    found = collapsed(front(frame), OBJECTIVES)
    shown = found[["dataset", "trial_id", "equal"]].to_numpy().tolist()
    assert shown == [
        ["cifar100", "s-00002", 3],  # the plain student, which needs no method
        ["cifar100", "s-00003", 2],
        ["cifar100", "s-00006", 1],
        ["other", "s-00005", 1],
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("teacher: {model: wrn_16_2}", dict(OBJECTIVES)),
        ("pairs: {a->b: }", dict(OBJECTIVES)),
        ("dataset: digits", {"val_acc": "max"}),
        ("objectives: {latency_ms: min}", {"latency_ms": "min"}),
        (None, dict(OBJECTIVES)),
    ],
)
def test_the_objectives_are_the_studys_own(tmp_path, trial_row, text, expected):
    store = Store(tmp_path, "s")
    store.add_trial(trial_row(0))
    if text is not None:
        store.save_study(text)
    assert objectives_of(str(tmp_path), ["s"]) == expected


def test_sweeps_of_different_objectives_must_be_told_which(tmp_path):
    Store(tmp_path, "a").save_study("objectives: {val_acc: max}")
    Store(tmp_path, "b").save_study("objectives: {val_loss: min}")
    with pytest.raises(UserError, match="sweeps 'a' and 'b' have different objectives"):
        objectives_of(str(tmp_path), ["a", "b"])
    Store(tmp_path, "b").save_study("objectives: {val_loss: less}")
    with pytest.raises(UserError, match="objectives: expected columns with max or min"):
        objectives_of(str(tmp_path), ["b"])


def test_why_there_is_nothing_to_show(recorded, trial_row):
    def why(*rows, needed=("val_acc", "compression_params")):
        return str(nothing_finished(recorded(rows, "s") if rows else empty, needed))

    empty = recorded([trial_row(0)], "s").iloc[:0]
    assert why() == "no finished trial: none has ended yet"
    ended = [trial_row(0, status="stopped"), trial_row(1, status="failed", error="Diverged: nan")]
    ended += [trial_row(n, status="failed", error="OutOfMemory: " + "x" * 999) for n in (2, 3)]
    said = why(*ended)
    assert said.startswith("no finished trial: 3 failed, 1 stopped; most often: OutOfMemory: xxx")
    assert len(said) < 300
    assert why(trial_row(0), trial_row(1)) == (
        "no finished trial of 2 has val_acc: val_fraction is 0, so that no image validates"
    )


def test_seeds_are_averaged(recorded, trial_row):
    frame = recorded(
        [
            trial_row(0, seed=0, val_acc=0.70, test_acc=0.60, latency_ms=2.0),
            trial_row(1, seed=1, val_acc=0.72, test_acc=0.64, latency_ms=4.0),
            trial_row(2, seed=2, val_acc=0.74, test_acc=None),
            trial_row(3, seed=0, val_acc=0.50, settings={"kd.temperature": 8.0}),
            trial_row(4, seed=3, val_acc=0.99, status="stopped"),
            trial_row(5, seed=0, val_acc=0.90, stage="confirm", settings={"val_fraction": 0.1}),
        ]
    )
    points = over_seeds(frame).set_index("trial_id")
    assert points.index.tolist() == ["s-00000", "s-00003", "s-00005"]
    first = points.loc["s-00000"]
    assert (first["n"], first["val_acc_n"], first["test_acc_n"]) == (3, 3, 2)
    assert first["trial_ids"] == "s-00000 s-00001 s-00002"
    assert first["val_acc"] == pytest.approx(0.72)
    assert first["val_acc_sd"] == pytest.approx(0.02)
    assert first["test_acc"] == pytest.approx(0.62)
    assert first["latency_ms"] == pytest.approx(3.0)
    settings = json.loads(first["settings"])
    assert settings["method"] == "kd"
    assert not {"seed", "view_seed", "stage"} & set(settings)
    assert math.isnan(points.loc["s-00003"]["val_acc_sd"])


def test_what_differs_from_seed_to_seed_is_averaged(recorded, trial_row):
    facts = {"params": 7, "compression_params": 0.1, "peak_memory_bytes": 1, "epochs": 3}
    measured = ({"peak_memory_bytes": 2, "latency_ms": 1.0}, {"latency_ms": 4.0}, {})
    frame = recorded(
        trial_row(seed, seed=seed, **{**facts, **ours}) for seed, ours in enumerate(measured)
    )
    (point,) = over_seeds(frame).to_dict("records")
    assert {name: point[name] for name in facts} == facts | {"peak_memory_bytes": 4 / 3}
    assert point["latency_ms"] == 2.5


@pytest.mark.parametrize("method", ["kd", "kd+theirs"])
def test_confirmed_configs_are_found_whatever_their_version(recorded, trial_row, method):
    """Rows of before a setting was there, and of a term that is not installed here."""
    old = {"theirs.seed": 3} if "theirs" in method else {}
    new = old | {"images": "auto", "channels_last": True}
    rows = [
        trial_row(8 * version + 4 * (stage == "confirm") + seed, method, seed=seed, stage=stage,
                  val_acc=0.5, test_acc=0.5 + version / 10, settings=settings)
        for version, settings in enumerate((old, new))
        for stage in ("search", "confirm")
        for seed in range(2)
    ]  # fmt: skip
    found = with_confirmation(recorded(rows), "test_acc")
    shown = found[["shown_stage", "shown_n", "val_acc"]].to_numpy().tolist()
    assert shown == [["confirm", 2, 0.5], ["confirm", 2, 0.5]]


def test_where_the_images_lie_makes_no_other_experiment(recorded, trial_row):
    frame = recorded(
        trial_row(seed, seed=seed, settings={"images": place})
        for seed, place in enumerate(("host", "device"))
    )
    assert over_seeds(frame)["n"].tolist() == [2]


def test_trial_that_ran_twice_counts_once(recorded, trial_row):
    rows = [trial_row(0, seed=0, val_acc=0.6), trial_row(1, seed=1, val_acc=0.8)]
    recorded(rows, "a")
    frame = recorded([rows[0] | {"val_acc": 0.7}], "b")  # on another machine, say
    (point,) = over_seeds(frame).to_dict("records")
    assert (point["n"], point["val_acc"]) == (2, pytest.approx(0.75)), "the last run counts"


def test_trials_without_a_config_stand_alone(recorded, trial_row):
    frame = recorded(trial_row(i, config=None, config_key=None, val_acc=0.5) for i in range(2))
    assert over_seeds(frame)["n"].tolist() == [1, 1]


def test_front_is_of_means_and_of_validation(recorded, trial_row):
    def config(number, factor, *val_accs, test=0.5, temperature=1.0):
        return [
            trial_row(
                10 * number + seed,
                "kd",
                factor,
                seed=seed,
                val_acc=val,
                test_acc=test,
                settings={"kd.temperature": temperature},
            )
            for seed, val in enumerate(val_accs)
        ]

    frame = recorded(
        [
            *config(1, 2, 0.70, 0.72),
            *config(2, 2, 0.90, 0.40, temperature=2.0),  # one lucky seed
            *config(3, 4, 0.60, 0.62),
            *config(4, 8, 0.55, 0.59, test=0.1),
            *config(5, 3, 0.57, 0.59, test=0.99),  # dominated, whatever its test accuracy
            trial_row(60, "kd", 16, stage="confirm", val_acc=0.99),
            trial_row(61, "kd", 16, status="failed", val_acc=0.99),
            trial_row(62, "kd", 16, val_acc=None),
        ]
    )
    found = front(frame)
    assert found["trial_ids"].tolist() == ["s-00010 s-00011", "s-00030 s-00031", "s-00040 s-00041"]
    assert found["compression_params"].is_monotonic_increasing
    assert found["val_acc"].tolist() == pytest.approx([0.71, 0.61, 0.57])
    for name in ("test_acc", "teacher_test_acc", "peer_test_acc"):
        with pytest.raises(UserError, match=f"objective '{name}': selection is on validation"):
            front(frame, {name: "max"})
    for name in ("host", "seed", "val_accuracy", "started_at"):
        with pytest.raises(UserError, match=f"unknown objective '{name}'"):
            front(frame, {name: "max"})


def test_each_dataset_and_teacher_has_its_front(recorded, trial_row):
    frame = recorded(
        [
            trial_row(0, "kd", 2, val_acc=0.9),
            trial_row(1, "kd", 4, val_acc=0.5, dataset="cifar10"),
            trial_row(2, "kd", 2, val_acc=0.4, dataset="cifar10"),
            trial_row(3, "student", 2, val_acc=0.3, teacher=None),
            trial_row(4, "kd", 2, val_acc=0.2, teacher=None),
        ]
    )
    assert sorted(front(frame)["trial_id"]) == ["s-00000", "s-00001", "s-00003"]


def test_other_objectives(recorded, trial_row):
    frame = recorded(
        trial_row(i, val_acc=acc, latency_ms=ms, settings={"kd.temperature": float(i)})
        for i, (acc, ms) in enumerate([(0.5, 1.0), (0.6, 2.0), (0.6, 3.0)])
    )
    found = front(frame, {"val_acc": "max", "latency_ms": "min"})
    assert found["trial_id"].tolist() == ["s-00000", "s-00001"]


def test_empty_frame_has_an_empty_front(recorded, trial_row):
    assert front(recorded([trial_row(0, status="failed")])).empty


def test_seeds_of_which_steps_made_other_students(recorded, trial_row):
    """What they cost is a mean then, and no seed's label stands for all."""
    labels = ("resnet8~0a", "resnet8~0b", "resnet8~0b")
    rows = [
        trial_row(seed, "kd", 4, seed=seed)
        | {"student": labels[seed], "params": 100 + 10 * seed, "macs": 7, "compression_params": f}
        for seed, f in enumerate((4.0, 4.5, 5.0))
    ]
    rows += [trial_row(3 + seed, "at", 4, seed=seed) | {"params": 50} for seed in range(2)]
    points = over_seeds(recorded(rows)).set_index("method")
    cut = points.loc["kd"]
    assert (cut["student"], cut["params"], cut["macs"]) == ("resnet8~*", 110, 7)
    assert cut["compression_params"] == 4.5
    whole = points.loc["at"]
    assert (whole["student"], whole["params"]) == (rows[-1]["student"], 50)


def test_facts_of_equal_students_are_theirs_to_the_last_bit(recorded, trial_row):
    """(x + x + x) / 3 is not always x."""
    factor = 4.1234567890123
    rows = [
        trial_row(seed, "kd", 4, seed=seed) | {"compression_params": factor, "params": 3}
        for seed in range(3)
    ]
    points = over_seeds(recorded(rows))
    assert points["compression_params"].tolist() == [factor]
    assert str(points["params"].dtype).lower().startswith("int")

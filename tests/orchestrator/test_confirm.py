"""What is confirmed: the front, the plain student beside it, on all training data, new seeds."""

import pytest

from orchestrator.results.store import Store
from orchestrator.sweeps.confirm import FIRST_SEED, choose
from trainables.errors import UserError

KD = {"kd.temperature": 4.0, "kd.alpha": 0.9, "kd.form": "softmax"}


@pytest.fixture
def chosen(recorded, tmp_path):
    def choose_from(rows, seeds=2, top=None):
        recorded(rows)
        return choose("s", str(tmp_path / "results"), seeds, top)

    return choose_from


def rows_of(trial_row):
    return [
        trial_row(0, "student", 2, val_acc=0.70),
        trial_row(1, "kd", 2, val_acc=0.75, settings=KD),
        trial_row(2, "kd", 4, val_acc=0.72, settings=KD),
        trial_row(3, "kd", 4, val_acc=0.60, settings=KD | {"lr": 0.2}),
        trial_row(4, "student", 8, val_acc=0.65),
        trial_row(5, "kd", 16, status="failed", settings=KD),
    ]


def described(groups):
    return sorted((group[0].method, group[0].chain["factor"]) for group in groups)


def test_the_front_and_the_plain_student_at_each_compression(chosen, trial_row):
    groups = chosen(rows_of(trial_row))
    assert described(groups) == [
        ("kd", 2.0),
        ("kd", 4.0),
        ("student", 2.0),
        ("student", 4.0),
        ("student", 8.0),
    ]


def test_only_the_best(chosen, trial_row):
    """On validation: what the test set says of them decides nothing."""
    rows = [row | {"test_acc": 1 - row.get("val_acc", 0)} for row in rows_of(trial_row)]
    assert described(chosen(rows, top=1)) == [("kd", 2.0), ("student", 2.0)]


def test_without_validation_nothing_can_be_chosen(chosen, trial_row, tmp_path):
    with pytest.raises(UserError, match="no finished trial of 2 has val_acc: val_fraction is 0"):
        chosen([trial_row(0), trial_row(1)])
    Store(tmp_path / "results", "s").save_study("objectives: {compression_params: max}")
    with pytest.raises(UserError, match=r"'s' has no val_acc .*give its study more `repeats`"):
        choose("s", str(tmp_path / "results"), 2)


def test_the_front_is_of_the_studys_own_objectives(chosen, trial_row, tmp_path):
    rows = [
        trial_row(0, "student", 2, val_acc=0.70, latency_ms=3.0),
        trial_row(1, "student", 4, val_acc=0.60, latency_ms=5.0),
    ]
    assert described(chosen(rows)) == [("student", 2.0), ("student", 4.0)]
    Store(tmp_path / "results", "s").save_study("objectives: {val_acc: max, latency_ms: min}")
    assert described(choose("s", str(tmp_path / "results"), 2)) == [("student", 2.0)]


def test_how_they_are_trained(chosen, trial_row):
    for group in chosen(rows_of(trial_row), seeds=3):
        assert [config.seed for config in group] == [FIRST_SEED + k for k in range(3)]
        assert [config.view_seed for config in group] == [config.seed for config in group]
        assert {config.stage for config in group} == {"confirm"}
        assert {config.val_fraction for config in group} == {0.0}
        if group[0].method == "kd":
            assert group[0].terms == KD


def test_a_confirmation_does_not_confirm_confirmations(chosen, trial_row):
    rows = rows_of(trial_row)
    rows += [trial_row(9, "kd", 2, stage="confirm", seed=1000, test_acc=0.9, settings=KD)]
    assert len(chosen(rows)) == 5


@pytest.mark.parametrize(
    ("seeds", "top", "expected"),
    [(0, None, "--seeds: expected at least 1"), (2, 0, "--top: expected at least 1")],
)
def test_mistakes(chosen, trial_row, seeds, top, expected):
    with pytest.raises(UserError, match=expected):
        chosen(rows_of(trial_row), seeds, top)


def test_nothing_to_confirm(chosen, trial_row):
    with pytest.raises(UserError, match="no finished trial"):
        chosen([trial_row(0, status="failed")])


def test_seeds_that_resample_go_on_doing_so(chosen, trial_row):
    """Each confirmed seed has training images of its own, out of all of them."""
    settings = KD | {"resample": True, "train_fraction": 0.8}
    groups = chosen([trial_row(0, "kd", 2, val_acc=0.75, settings=settings)], seeds=3)
    assert described(groups) == [("kd", 2.0), ("student", 2.0)]
    for group in groups:
        assert [config.seed for config in group] == [FIRST_SEED + k for k in range(3)]
        for config in group:
            assert (config.resample, config.train_fraction) == (True, 0.8)
            assert config.val_fraction == 0

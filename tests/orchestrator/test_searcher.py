"""A sweep's book as Tune calls it: who is trained, who is answered, what is booked and told."""

import hashlib
import json
import shutil
import threading
import time
import uuid

import optuna
import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from pyarrow import fs
from ray.tune.search import Searcher

from orchestrator.results.store import Store
from orchestrator.sweeps.book import Book
from orchestrator.sweeps.confirm import FIRST_SEED
from orchestrator.sweeps.journal import NAME, Journal
from orchestrator.sweeps.ledger import DEATH, known
from orchestrator.sweeps.plan import Plan
from orchestrator.sweeps.proposal import ListSource
from orchestrator.sweeps.searcher import StudySearcher
from orchestrator.sweeps.source import OptunaSource
from search_spaces.load import parse_study
from trainables.config import TrialConfig
from trainables.errors import DeviceError, OutOfMemoryError, UserError
from trainables.files import Folder
from trainables.job import PROGRESS, trial_folder

GRID = {"lr": [0.1, 0.05, 0.02], "batch_size": [32, 64]}


def study(dimensions=GRID, **changes):
    fixed = {"student": "wrn_10_1", "epochs": 2}
    content = {
        "name": "s",
        "dataset": "digits",
        "fixed": {key: value for key, value in fixed.items() if key not in dimensions},
        "dimensions": dimensions,
        "objectives": {"val_acc": "max"},
        "sampler": "grid",
    }
    return parse_study(content | changes)


class Log:
    """Remembers what a searcher says it does."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []

    def started(self, trial_id, config):
        self.events.append(("started", trial_id))

    def epoch(self, row, epochs):
        self.events.append(("epoch", row["trial_id"]))

    def ended(self, row):
        self.events.append(("ended", row["trial_id"]))

    def retried(self, row):
        self.events.append(("retried", row["trial_id"]))

    def noted(self, trial_id, text):
        self.events.append(("noted", f"{trial_id}: {text}"))

    def answered(self, trial_id, by):
        self.events.append(("answered", trial_id))

    def of(self, kind):
        return [trial_id for event, trial_id in self.events if event == kind]


class Driver:
    """A sweep's driver without Ray: the test says when a trial's results come.

    A second one on the same folder is what `kdsweep resume` is to a driver that was killed; it may
    have been renamed meanwhile.
    """

    def __init__(
        self, folder, spec, *, gpus=0.0, source=None, stage="search", name="s", began_as=None
    ) -> None:
        self.store = Store(folder, name)
        self.plan = plan = Plan(spec, name, str(folder), gpus=gpus, began_as=began_as)
        if not self.store.folder.exists("study.yaml"):
            self.store.save_study("# of the test\n")
        if source is None:
            journal = Journal(self.store.folder)
            source = OptunaSource(spec, journal, plan.origin, known(self.store, plan))
        self.source, self.log = source, Log()
        self.book = Book(source, plan, self.store, self.log, stage, lambda: time.sleep(0.05))
        self.searcher = StudySearcher(self.book)
        self.jobs: dict[str, dict] = {}
        self.asked = 0

    def start(self):
        """Asks for a trial as Tune does; returns Tune's id, None, or FINISHED."""
        self.asked += 1
        tune_id = f"tune{self.asked}"
        given = self.searcher.suggest(tune_id)
        if isinstance(given, dict):
            self.jobs[tune_id] = given
            self.searcher.on_trial_start(tune_id, lambda: None)
            return tune_id
        return given

    def epoch(self, tune_id, number=1):
        self.searcher.on_trial_result(tune_id, self.result(tune_id, [number], "stopped"))

    def end(self, tune_id, status="completed", epochs=(1, 2), **columns):
        result = self.result(tune_id, epochs, status, **columns)
        self.searcher.on_trial_complete(tune_id, result)

    def die(self, tune_id):
        self.searcher.on_trial_complete(tune_id, None, error=True)

    def result(self, tune_id, epochs, status, **columns):
        """What `DistillTrainable.step` returns, with a score that follows from the config."""
        job = self.jobs[tune_id]
        config = TrialConfig.from_mapping(job["config"])
        key = self.plan.key(config)
        row = {
            "trial_id": job["trial_id"],
            "attempt": job["attempt"],
            "config_key": key,
            "stage": config.stage,
            "method": config.method,
            "dataset": config.dataset,
            "student": "wrn_10_1",
            "status": status,
            "error": None,
            "epochs": epochs[-1] if epochs else 0,
            "val_acc": score(key),
            "config": config.to_json(),
        }
        row |= columns
        whose = {"trial_id": job["trial_id"], "attempt": job["attempt"]}
        rows = [{**whose, "epoch": e, "lr": 0.1, "val_acc": 0.5} for e in epochs]
        return {"epoch": row["epochs"], "epochs": rows, "trial": [row], "done": status != "stopped"}

    def run(self, calls=10**6):
        """Runs trials two at a time to the end, or until so many calls have been made."""
        live = []
        for _ in range(calls):
            given = self.start() if len(live) < 2 else None
            if given == Searcher.FINISHED:
                assert self.store.flush()
                return
            if given is not None:
                live.append(given)
            elif live:
                self.end(live.pop(0))

    @property
    def states(self):
        return [trial.state for trial in self.source.optuna.trials]

    def rows(self):
        return self.store.read("trials").to_pylist()


def score(key):
    return int(hashlib.sha256(key.encode()).hexdigest()[:6], 16) / 16**6


def ids(rows):
    return sorted(row["trial_id"] for row in rows)


def configs(rows):
    return {row["trial_id"]: row["config"] for row in rows}


def job_id(driver, tune_id):
    return driver.jobs[tune_id]["trial_id"]


# How trials end


def test_a_grid_is_trained_once_each_and_told_its_values(tmp_path):
    driver = Driver(tmp_path, study())
    driver.run()
    rows = driver.rows()
    assert ids(rows) == [f"s-{number:05d}" for number in range(6)]
    assert len(set(configs(rows).values())) == 6
    assert driver.book.finished
    assert driver.source.exhausted
    told = {t.user_attrs["trial_ids"][0]: t.value for t in driver.source.optuna.trials}
    assert told == {row["trial_id"]: row["val_acc"] for row in rows}
    epochs = driver.store.read("epochs").to_pylist()
    assert len({(row["trial_id"], row["epoch"]) for row in epochs}) == len(epochs) == 12


def test_every_ending_is_told_and_nothing_stays_running(tmp_path):
    driver = Driver(tmp_path, study())
    for ending in (
        {},
        {"status": "stopped", "epochs": (1,)},
        {"status": "failed", "error": "Diverged: the loss became nan in epoch 1, term ce"},
        {"val_acc": float("nan")},
        {"val_acc": None},
    ):
        driver.end(driver.start(), **ending)
    last = driver.start()
    for _ in range(3):
        driver.die(last)
        last = driver.start()
    complete, pruned, fail = TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL
    assert driver.states == [complete, pruned, fail, fail, fail, fail]
    assert [row["status"] for row in driver.rows()] == [
        *("completed", "stopped", "failed", "completed", "completed"),
        *("failed", "failed", "failed"),
    ]
    assert last == Searcher.FINISHED


def test_a_student_that_cannot_be_built_is_infeasible_and_told(tmp_path):
    spec = study({"student": ["wrn_10_1", "vgg8"]})
    driver = Driver(tmp_path, spec)
    driver.run()
    assert driver.states == [TrialState.COMPLETE, TrialState.FAIL]
    (row,) = (row for row in driver.rows() if row["status"] == "infeasible")
    assert row["trial_id"] == "s-00001"
    assert "vgg8" in row["error"]
    assert json.loads(row["config"])["student"] == "vgg8"


def test_a_row_is_on_disk_before_its_value_is_told(tmp_path, monkeypatch):
    driver = Driver(tmp_path, study())
    seen = []
    tell = driver.source.optuna.tell

    def spying_tell(trial, *args, **kwargs):
        seen.append((trial.number, ids(Store(tmp_path, "s").read("trials").to_pylist())))
        return tell(trial, *args, **kwargs)

    monkeypatch.setattr(driver.source.optuna, "tell", spying_tell)
    driver.run()
    assert len(seen) == 6
    assert all(f"s-{number:05d}" in booked for number, booked in seen)


def test_results_of_a_trial_that_tune_gave_up_are_ignored(tmp_path):
    driver = Driver(tmp_path, study())
    trial = driver.start()
    driver.end(trial)
    driver.end(trial)
    assert len(driver.rows()) == 1
    driver.searcher.on_trial_complete("unheard of", None, error=True)


def test_progress_is_kept_until_the_trial_is_booked_for_good(tmp_path):
    driver = Driver(tmp_path, study({"lr": [0.1]}))
    trial = driver.start()
    folder = trial_folder(str(tmp_path), "s", "s-00000")
    folder.write(PROGRESS, b"half a training")
    driver.die(trial)
    assert folder.exists(PROGRESS)
    driver.end(driver.start())
    assert not folder.exists(PROGRESS)


# Twins


def test_an_equal_config_is_answered_by_the_finished_one(tmp_path):
    # Two names of one network: the second is not trained.
    spec = study({"student": ["wrn_10_1", "wrn_10_1.0"], "lr": [0.1]})
    driver = Driver(tmp_path, spec)
    driver.end(driver.start())
    assert driver.start() == Searcher.FINISHED
    assert driver.log.of("answered") == ["s-00001"]
    assert ids(driver.rows()) == ["s-00000"]
    first, second = driver.source.optuna.trials
    assert second.value == first.value
    assert second.user_attrs["trial_ids"] == ["s-00000"]


def test_an_equal_config_waits_for_the_running_one(tmp_path):
    driver = Driver(tmp_path, study({"student": ["wrn_10_1", "wrn_10_1.0"], "lr": [0.1]}))
    running = driver.start()
    assert driver.start() is None
    assert not driver.book.finished
    driver.end(running)
    assert driver.start() == Searcher.FINISHED
    assert driver.states == [TrialState.COMPLETE] * 2
    assert ids(driver.rows()) == ["s-00000"]


def test_an_equal_config_runs_itself_if_the_first_fails(tmp_path):
    students = ["wrn_10_1", "wrn_10_1.0", "wrn_10_1.00"]
    driver = Driver(tmp_path, study({"student": students, "lr": [0.1]}))
    running = driver.start()
    assert driver.start() is None
    driver.end(running, status="failed", error="Diverged: the loss became inf")
    second = driver.start()
    assert job_id(driver, second) == "s-00001"
    assert driver.start() is None
    driver.end(second)
    assert driver.start() == Searcher.FINISHED
    assert driver.states == [TrialState.FAIL, TrialState.COMPLETE, TrialState.COMPLETE]
    assert len(driver.rows()) == 2


def test_answers_cost_no_budget_and_an_exhausted_space_ends(tmp_path):
    spec = study({"lr": [0.1, 0.05]}, sampler="random", trials=5)
    driver = Driver(tmp_path, spec)
    driver.source.PATIENCE = 8
    driver.run()
    assert driver.book.finished
    assert len(driver.rows()) == 2
    told = driver.source.optuna.trials
    assert len(told) > 8
    assert all(trial.state == TrialState.COMPLETE for trial in told)
    # And a further driver sees at once that there is nothing left.
    after = Driver(tmp_path, spec).source
    after.PATIENCE = 8
    assert after.exhausted


def test_a_sampler_replaces_what_was_answered(tmp_path):
    spec = study({"batch_size": [16, 32, 64, 128]}, sampler="random", trials=4)
    driver = Driver(tmp_path, spec)
    driver.run()
    assert len({row["config"] for row in driver.rows()}) == len(driver.rows()) == 4
    assert driver.log.of("answered")  # seed 0 draws a value twice before it has drawn all


# Repeats


def test_repeats_train_every_seed_once_and_tell_their_mean(tmp_path):
    driver = Driver(tmp_path, study({"lr": [0.1, 0.05]}, repeats=3))
    driver.run()
    rows = driver.rows()
    assert ids(rows) == [f"s-{number:05d}" for number in range(6)]
    seeds = [json.loads(config)["seed"] for _, config in sorted(configs(rows).items())]
    assert seeds == [0, 1, 2, 0, 1, 2]
    means = [trial.value for trial in driver.source.optuna.trials]
    values = [row["val_acc"] for row in sorted(rows, key=lambda row: row["trial_id"])]
    assert means == pytest.approx([sum(values[:3]) / 3, sum(values[3:]) / 3])


def test_one_failed_repeat_fails_the_config(tmp_path):
    driver = Driver(tmp_path, study({"lr": [0.1]}, repeats=2))
    first, second = driver.start(), driver.start()
    driver.end(first)
    assert driver.states == [TrialState.RUNNING]
    driver.end(second, status="failed", error="Diverged: the loss became nan")
    assert driver.states == [TrialState.FAIL]


def test_repeats_that_were_booked_before_a_kill_are_not_trained_again(tmp_path):
    spec = study({"lr": [0.1, 0.05]}, repeats=3)
    killed = Driver(tmp_path, spec)
    one, two = killed.start(), killed.start()
    killed.end(two)
    killed.epoch(one)
    resumed = Driver(tmp_path, spec)
    resumed.run()
    assert "s-00001" not in resumed.log.of("started")
    assert ids(resumed.rows()) == [f"s-{number:05d}" for number in range(6)]
    assert len(resumed.source.optuna.trials) == 2


# Failures


def test_a_dead_worker_is_replaced_twice(tmp_path):
    driver = Driver(tmp_path, study({"lr": [0.1]}))
    for attempt in (1, 2, 3):
        trial = driver.start()
        assert (job_id(driver, trial), driver.jobs[trial]["attempt"]) == ("s-00000", attempt)
        driver.epoch(trial)
        driver.die(trial)
    assert driver.start() == Searcher.FINISHED
    assert [(row["attempt"], row["error"]) for row in driver.rows()] == [
        (1, DEATH),
        (2, DEATH),
        (3, DEATH),
    ]
    assert driver.log.of("retried") == ["s-00000"] * 2
    assert driver.log.of("ended") == ["s-00000"]
    assert driver.states == [TrialState.FAIL]


def test_a_dead_worker_is_replaced_before_anything_else_begins(tmp_path):
    driver = Driver(tmp_path, study({"lr": [0.1]}, repeats=3))
    first = driver.start()
    driver.die(first)
    assert job_id(driver, driver.start()) == job_id(driver, first)
    assert job_id(driver, driver.start()) != job_id(driver, first)


def test_a_trial_that_outlives_its_worker_is_told_complete(tmp_path):
    driver = Driver(tmp_path, study({"lr": [0.1]}))
    driver.die(driver.start())
    driver.end(driver.start())
    assert [row["status"] for row in driver.rows()] == ["failed", "completed"]
    assert driver.states == [TrialState.COMPLETE]
    assert driver.start() == Searcher.FINISHED


def test_a_worker_that_raised_is_not_tried_again(tmp_path):
    driver = Driver(tmp_path, study({"lr": [0.1]}))
    trial = driver.start()
    driver.searcher.on_trial_start(trial, lambda: RuntimeError("what the code did\nand where"))
    driver.die(trial)
    assert driver.start() == Searcher.FINISHED
    assert [row["error"] for row in driver.rows()] == ["RuntimeError: what the code did"]


def test_killed_drivers_do_not_use_up_the_attempts(tmp_path):
    spec = study({"lr": [0.1]})
    for _ in range(4):
        killed = Driver(tmp_path, spec)
        killed.epoch(killed.start())
        killed.store.flush()
    driver = Driver(tmp_path, spec)
    trial = driver.start()
    assert driver.jobs[trial]["attempt"] == 5
    driver.die(trial)
    driver.end(driver.start())
    assert driver.states == [TrialState.COMPLETE]


@pytest.mark.parametrize(
    "raised",
    [
        DeviceError("CUDA error: device-side assert triggered"),
        torch.AcceleratorError("CUDA error: an illegal memory access was encountered\n..."),
        RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm(...)`"),
    ],
)
def test_a_lost_device_is_a_death(tmp_path, raised):
    driver = Driver(tmp_path, study({"lr": [0.1]}))
    for attempt in (1, 2, 3):
        trial = driver.start()
        assert driver.jobs[trial]["attempt"] == attempt
        driver.searcher.on_trial_start(trial, lambda: raised)
        driver.die(trial)
    assert driver.start() == Searcher.FINISHED
    errors = [row["error"] for row in driver.rows()]
    assert len(errors) == 3
    assert all(error.startswith("DeviceError: CUDA error: ") for error in errors)
    resumed = Driver(tmp_path, study({"lr": [0.1]}))
    assert resumed.start() == Searcher.FINISHED


def test_deaths_of_all_kinds_count_together(tmp_path):
    driver = Driver(tmp_path, study({"lr": [0.1]}))
    for raised in (None, DeviceError("CUDA error: x"), None):
        trial = driver.start()
        driver.searcher.on_trial_start(trial, lambda raised=raised: raised)
        driver.die(trial)
    assert driver.start() == Searcher.FINISHED


@pytest.mark.parametrize(
    "raised",
    [
        OutOfMemoryError("the memory of the GPU is full"),
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        MemoryError(),
    ],
)
def test_a_full_memory_that_ended_the_worker_is_tried_once_with_a_larger_share(tmp_path, raised):
    driver = Driver(tmp_path, study({"lr": [0.1]}), gpus=0.25)
    for share in (0.25, 0.5):
        trial = driver.start()
        assert driver.jobs[trial]["gpus"] == share
        driver.searcher.on_trial_start(trial, lambda: raised)
        driver.die(trial)
    assert driver.start() == Searcher.FINISHED
    assert all(row["error"].startswith("OutOfMemoryError: ") for row in driver.rows())


def test_what_a_worker_notes_is_passed_on(tmp_path):
    driver = Driver(tmp_path, study({"lr": [0.1]}))
    trial = driver.start()
    result = driver.result(trial, [1], "stopped") | {"notes": ["progress.pt is damaged"]}
    driver.searcher.on_trial_result(trial, result)
    assert driver.log.of("noted") == ["s-00000: progress.pt is damaged"]


FULL = "OutOfMemoryError: CUDA out of memory"


@pytest.mark.parametrize(("share", "then"), [(0.25, 0.5), (0.7, 1.0)])
def test_out_of_memory_is_tried_once_with_a_larger_share(tmp_path, share, then):
    driver = Driver(tmp_path, study({"lr": [0.1]}), gpus=share)
    driver.end(driver.start(), status="failed", error=FULL)
    trial = driver.start()
    assert driver.jobs[trial]["gpus"] == then
    driver.end(trial, status="failed", error=FULL)
    assert driver.start() == Searcher.FINISHED
    assert len(driver.rows()) == 2


def test_out_of_memory_on_a_whole_gpu_is_final(tmp_path):
    driver = Driver(tmp_path, study({"lr": [0.1]}), gpus=1.0)
    driver.end(driver.start(), status="failed", error=FULL)
    assert driver.start() == Searcher.FINISHED


def test_the_larger_share_survives_a_killed_driver(tmp_path):
    spec = study({"lr": [0.1]})
    killed = Driver(tmp_path, spec, gpus=0.25)
    killed.end(killed.start(), status="failed", error=FULL)
    resumed = Driver(tmp_path, spec, gpus=0.25)
    trial = resumed.start()
    assert (resumed.jobs[trial]["gpus"], resumed.jobs[trial]["attempt"]) == (0.5, 2)


def test_a_trial_that_failed_for_good_is_not_trained_again_after_a_kill(tmp_path, monkeypatch):
    spec = study({"lr": [0.1]})
    killed = Driver(tmp_path, spec)
    # Killed between the row and the tell.
    monkeypatch.setattr(killed.source, "tell", lambda *args, **kwargs: None)
    killed.end(killed.start(), status="failed", error="Diverged: the loss became nan")
    resumed = Driver(tmp_path, spec)
    assert resumed.start() == Searcher.FINISHED
    assert resumed.states == [TrialState.FAIL]
    assert resumed.book.booked == len(resumed.rows()) == 1


# Killed at any point


class Killed(BaseException):
    """As sudden as SIGKILL: nothing in the driver handles it."""


def kill_at(monkeypatch, countdown, *, late):
    """Kills at the countdown-th write to the disk: before it, or when it is done."""
    calls = [0]
    write = Folder.write

    def killing_write(folder, name, data):
        calls[0] += 1
        if calls[0] != countdown or late:
            write(folder, name, data)
        if calls[0] == countdown:
            raise Killed

    monkeypatch.setattr(Folder, "write", killing_write)


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("repeats", [1, 2])
def test_a_kill_at_any_write_loses_and_doubles_nothing(tmp_path, monkeypatch, repeats, late):
    dimensions = {"student": ["wrn_10_1", "wrn_10_1.0"], "lr": [0.1, 0.05]}
    spec = study(dimensions, repeats=repeats)
    undisturbed = Driver(tmp_path / "undisturbed", spec)
    undisturbed.run()
    expected = {row["config_key"]: row["val_acc"] for row in undisturbed.rows()}
    assert len(expected) == 2 * repeats
    for countdown in range(2, 400):  # the first write is the test's own study.yaml
        folder = tmp_path / f"{countdown}"
        with monkeypatch.context() as patch:
            kill_at(patch, countdown, late=late)
            try:
                Driver(folder, spec).run()
                break
            except Killed:
                pass
        resumed = Driver(folder, spec)
        resumed.run()
        rows = resumed.rows()
        assert {row["config_key"]: row["val_acc"] for row in rows} == expected
        assert len(rows) == len(expected)
        assert [(t.state, t.value) for t in resumed.source.optuna.trials] == [
            (t.state, t.value) for t in undisturbed.source.optuna.trials
        ]
        assert resumed.source.exhausted
    assert countdown > 10


@pytest.mark.parametrize("late", [False, True])
def test_a_kill_at_any_write_keeps_a_samplers_budget(tmp_path, monkeypatch, late):
    dimensions = {"student": ["wrn_10_1", "wrn_10_1.0"], "batch_size": [16, 32, 64, 128]}
    spec = study(dimensions, sampler="random", trials=3)
    for countdown in range(2, 400):
        folder = tmp_path / f"{countdown}"
        with monkeypatch.context() as patch:
            kill_at(patch, countdown, late=late)
            try:
                killed = Driver(folder, spec)
                killed.run()
                assert killed.log.of("answered")
                break
            except Killed:
                pass
        resumed = Driver(folder, spec)
        resumed.run()
        assert len({row["config_key"] for row in resumed.rows()}) == len(resumed.rows()) == 3
        assert all(state.is_finished() for state in resumed.states)
    assert countdown > 12


def test_a_budget_is_kept_through_any_number_of_kills(tmp_path):
    spec = study({"lr": {"low": 0.01, "high": 0.5}}, sampler="tpe", trials=7)
    for calls in (3, 4, 1, 5):
        Driver(tmp_path, spec).run(calls)
    Driver(tmp_path, spec).run()
    rows = Store(tmp_path, "s").read("trials").to_pylist()
    assert len(set(ids(rows))) == len(rows) == 7


# Names


def test_a_second_confirmation_keeps_the_first_and_trains_what_is_new(tmp_path):
    spec = study()
    configs_ = [spec.config({"lr": lr, "batch_size": 32}) for lr in (0.1, 0.05)]

    def groups(seeds):
        return [
            [c.replace(stage="confirm", seed=1000 + k, view_seed=1000 + k) for k in range(seeds)]
            for c in configs_
        ]

    for seeds, new in ((2, 4), (3, 2), (3, 0)):
        driver = Driver(tmp_path, spec, source=ListSource(groups(seeds)), stage="confirm")
        driver.run()
        assert len(driver.log.of("started")) == new
    rows = driver.rows()
    assert len(rows) == 6
    assert len(set(ids(rows))) == 6
    assert len({row["config"] for row in rows}) == 6
    assert driver.book.booked == 6


def test_a_confirmation_that_was_killed_gives_no_id_to_another_config(tmp_path):
    """Five seeds, killed before a row; then three: the numbers of the trials shift."""
    spec = study()

    def confirming(seeds):
        source = ListSource(
            [
                [
                    spec.config({"lr": lr, "batch_size": 32}).replace(
                        stage="confirm", seed=1000 + k, view_seed=1000 + k
                    )
                    for k in range(seeds)
                ]
                for lr in (0.1, 0.05)
            ]
        )
        return Driver(tmp_path, spec, source=source, stage="confirm")

    killed = confirming(5)
    begun = [killed.start() for _ in range(10)]
    for trial in begun:
        killed.epoch(trial)
    killed.store.flush()
    before = {job["trial_id"]: job["config"] for job in killed.jobs.values()}
    resumed = confirming(3)
    resumed.run()
    after = {job["trial_id"]: job["config"] for job in resumed.jobs.values()}
    assert len(before) == 10
    assert len(after) == 6
    assert after.items() <= before.items(), "its own id, and thereby its own progress"


DRAWN = {"lr": {"low": 0.01, "high": 0.5}}


def begun(driver):
    """The config of every trial that a driver handed out."""
    return {job["trial_id"]: job["config"] for job in driver.jobs.values()}


@pytest.mark.parametrize("damage", ["missing", "behind", "rubbish", "unwritable"])
def test_the_journal_decides_nothing(tmp_path, damage, caplog):
    spec = study(DRAWN, sampler="tpe", trials=6)
    whole = Driver(tmp_path / "whole", spec)
    whole.run(7)
    shutil.copytree(tmp_path / "whole", tmp_path / "hurt")
    whole.source.keep()
    journal = tmp_path / "hurt" / "s" / NAME
    if damage == "behind":
        Driver(tmp_path / "other", spec).source.keep()
        shutil.copy(tmp_path / "other" / "s" / NAME, journal)
    elif damage == "rubbish":
        journal.write_bytes(b"\0" * 100 + b"\n{")
    elif damage == "unwritable":
        journal.mkdir()
    expected, hurt = (Driver(tmp_path / name, spec) for name in ("whole", "hurt"))
    for driver in (expected, hurt):
        driver.run()
        driver.source.keep()
        driver.source.keep()
    assert begun(hurt) == begun(expected)
    assert configs(hurt.rows()) == configs(expected.rows())
    warned = [record for record in caplog.records if NAME in record.message]
    assert len(warned) == (damage == "unwritable")
    if damage != "unwritable":
        storage = JournalStorage(JournalFileBackend(str(journal)))
        shown = optuna.load_study(study_name="s", storage=storage).trials
        assert [(t.number, t.state, t.params, t.values) for t in shown] == [
            (t.number, t.state, t.params, t.values) for t in hurt.source.optuna.trials
        ]


def test_a_proposal_is_in_the_store_before_its_trial_starts(tmp_path):
    spec = study(DRAWN, sampler="random", trials=5, repeats=2)
    driver = Driver(tmp_path, spec)
    for _ in range(10):
        trial = driver.start()
        proposals = Store(tmp_path, "s").read("proposals").to_pylist()
        drawn = [json.loads(row["params"]) for row in proposals]
        assert driver.jobs[trial]["config"]["lr"] in {values["lr"] for values in drawn}
        assert [row["number"] for row in proposals] == list(range(len(proposals)))
        assert all(row["state"] is None and row["proposed_at"] for row in proposals)


def test_what_was_told_is_in_the_store(tmp_path):
    spec = study({"student": ["wrn_10_1", "wrn_10_1.0"], "lr": [0.1]}, repeats=2)
    driver = Driver(tmp_path, spec)
    driver.run()
    first, second = driver.store.read("proposals").sort_by("number").to_pylist()
    assert (first["state"], second["state"]) == ("trained", "answered")
    assert json.loads(first["trial_ids"]) == json.loads(second["trial_ids"]) == ids(driver.rows())
    again = Driver(tmp_path, spec)
    assert again.source.exhausted
    assert again.start() == Searcher.FINISHED
    assert again.log.events == []
    assert [trial.user_attrs for trial in again.source.optuna.trials] == [
        trial.user_attrs for trial in driver.source.optuna.trials
    ]


def test_what_was_told_stays_so_on_another_gpu(tmp_path):
    """Told as failed where a trial had a whole GPU, it is not tried again where it has half."""
    spec = study({"lr": [0.1]})
    driver = Driver(tmp_path, spec, gpus=1.0)
    driver.end(driver.start(), status="failed", error=FULL)
    driver.run()
    assert Driver(tmp_path, spec, gpus=0.5).start() == Searcher.FINISHED


def test_a_store_that_lost_its_proposals_is_refused(tmp_path):
    """Whether all of them, which a row tells, or one of a row."""
    spec = study(DRAWN, sampler="random", trials=3)
    Driver(tmp_path / "all", spec).run()
    shutil.rmtree(tmp_path / "all" / "s" / "proposals")
    killed = Driver(tmp_path / "one", spec)
    for _ in range(3):
        killed.start()
    sorted((tmp_path / "one" / "s" / "proposals").iterdir())[1].unlink()
    for lost in ("all", "one"):
        with pytest.raises(UserError, match=r"/s/proposals lacks some of what this sweep has"):
            Driver(tmp_path / lost, spec)


def test_the_search_does_not_count_confirmations_as_its_own(tmp_path):
    spec = study()
    Driver(tmp_path, spec).run()
    config = spec.config({"lr": 0.1, "batch_size": 32}).replace(stage="confirm", seed=1000)
    Driver(tmp_path, spec, source=ListSource([[config]]), stage="confirm").run()
    assert Driver(tmp_path, spec).book.booked == 6


# A disk without space


def test_a_full_disk_pauses_the_sweep_and_loses_nothing(tmp_path, monkeypatch, caplog):
    driver = Driver(tmp_path, study())
    write = Folder.write
    full = threading.Event()
    full.set()

    def failing_write(folder, name, data):
        if full.is_set():
            raise OSError(28, "No space left on device")
        write(folder, name, data)

    trial = driver.start()
    monkeypatch.setattr(Folder, "write", failing_write)
    threading.Timer(0.5, full.clear).start()
    began = time.monotonic()
    driver.end(trial)
    assert time.monotonic() - began >= 0.45
    assert ids(driver.rows()) == ["s-00000"]
    assert len(driver.store.read("epochs")) == 2
    assert driver.states[0] == TrialState.COMPLETE
    assert [r.message for r in caplog.records if "cannot be written" in r.message]
    driver.run()
    assert len(driver.rows()) == 6


def test_a_full_disk_lets_no_trial_start_that_is_not_in_the_store(tmp_path, monkeypatch):
    driver = Driver(tmp_path, study())
    write, failures = Folder.write, []

    def failing_write(folder, name, data):
        if len(failures) < 3:
            failures.append(name)
            raise OSError(28, "No space left on device")
        write(folder, name, data)

    monkeypatch.setattr(Folder, "write", failing_write)
    driver.start()
    assert len(failures) == 3
    assert len(driver.store.read("proposals")) == 1


# In a bucket


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    memory = fs.PyFileSystem(fs.FSSpecHandler(MemoryFileSystem()))
    return Folder(memory, f"bucket-{uuid.uuid4().hex}", is_local=False)


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "random"])
def test_a_driver_that_lost_its_disk_goes_on_with_the_same_proposals(
    tmp_path, monkeypatch, bucket, sampler
):
    spec = study(DRAWN, sampler=sampler, trials=8, repeats=2)
    asked = {}
    for number, calls in enumerate((5, 9, 2, 10**6)):
        # Each time on another machine, with nothing but the bucket.
        monkeypatch.setenv("KDSWEEP_CACHE", str(tmp_path / f"machine{number}"))
        driver = Driver(bucket, spec)
        driver.run(calls)
        again = {name: config for name, config in begun(driver).items() if name in asked}
        assert again == {name: asked[name] for name in again}
        asked |= begun(driver)
        assert bool(again) == (number > 0)
        assert not (tmp_path / f"machine{number}").exists()
    assert configs(driver.rows()).keys() == asked.keys()
    assert len(driver.rows()) == len(asked) == 16
    assert len({config["lr"] for config in asked.values()}) == 8


# A folder that was renamed or copied


@pytest.mark.parametrize("calls", [3, 8, 13])
def test_a_renamed_and_a_copied_sweep_go_on_as_if_nothing_was(tmp_path, calls):
    spec = study(repeats=2)
    whole = Driver(tmp_path / "whole", spec)
    whole.run()
    Driver(tmp_path / "cut", spec).run(calls)
    shutil.copytree(tmp_path / "cut" / "s", tmp_path / "cut" / "copy")
    (tmp_path / "cut" / "s").rename(tmp_path / "cut" / "t")
    for name in ("t", "copy"):
        resumed = Driver(tmp_path / "cut", spec, name=name, began_as="s")
        resumed.run()
        assert {job["sweep"] for job in resumed.jobs.values()} <= {name}
        found = {row["trial_id"]: row for row in resumed.rows()}
        expected = {row["trial_id"]: row for row in whole.rows()}
        assert found.keys() == expected.keys()
        assert len(found) == len(resumed.rows()) == 12
        for trial_id, row in found.items():
            assert row["sweep"] == name
            assert row["config_key"] == expected[trial_id]["config_key"]
        assert resumed.source.exhausted


def test_a_renamed_sweep_is_confirmed_under_its_first_name(tmp_path):
    spec = study()
    Driver(tmp_path, spec).run()
    (tmp_path / "s").rename(tmp_path / "t")
    config = spec.config({}).replace(stage="confirm")
    groups = [[config.replace(seed=FIRST_SEED + k) for k in range(2)]]
    driver = Driver(
        tmp_path, spec, source=ListSource(groups), stage="confirm", name="t", began_as="s"
    )
    driver.run()
    ids = {row["trial_id"] for row in driver.rows() if row["stage"] == "confirm"}
    assert len(ids) == 2
    assert all(name.startswith("s-confirm-") for name in ids)

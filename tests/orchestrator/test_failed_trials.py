"""Trials whose workers failed: which are tried again, how, and what their rows say."""

from types import SimpleNamespace

import pytest
import torch
from optuna.trial import TrialState
from ray import cloudpickle, exceptions
from ray.tune.search import Searcher

from orchestrator.sweeps.deaths import DEATH, NO_MEMORY, NO_START
from orchestrator.sweeps.searcher import Starts
from trainables.errors import DeviceError, OutOfMemoryError

FULL = "OutOfMemoryError: CUDA out of memory"


def job_id(driver, tune_id):
    return driver.jobs[tune_id]["trial_id"]


def test_a_dead_worker_is_replaced_twice(tmp_path, driver_of, study):
    driver = driver_of(tmp_path, study({"lr": [0.1]}))
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


def test_a_dead_worker_is_replaced_before_anything_else_begins(tmp_path, driver_of, study):
    driver = driver_of(tmp_path, study({"lr": [0.1]}, repeats=3))
    first = driver.start()
    driver.die(first)
    assert job_id(driver, driver.start()) == job_id(driver, first)
    assert job_id(driver, driver.start()) != job_id(driver, first)


def test_a_trial_that_outlives_its_worker_is_told_complete(tmp_path, driver_of, study):
    driver = driver_of(tmp_path, study({"lr": [0.1]}))
    driver.die(driver.start())
    driver.end(driver.start())
    assert [row["status"] for row in driver.rows()] == ["failed", "completed"]
    assert driver.states == [TrialState.COMPLETE]
    assert driver.start() == Searcher.FINISHED


def test_a_worker_that_raised_is_not_tried_again(tmp_path, driver_of, study):
    driver = driver_of(tmp_path, study({"lr": [0.1]}))
    trial = driver.start()
    driver.searcher.raised = lambda trial: RuntimeError("what the code did\nand where")
    driver.die(trial)
    assert driver.start() == Searcher.FINISHED
    assert [row["error"] for row in driver.rows()] == ["RuntimeError: what the code did"]


@pytest.mark.parametrize(
    "raised",
    [
        DeviceError("CUDA error: device-side assert triggered"),
        torch.AcceleratorError("CUDA error: an illegal memory access was encountered\n..."),
        RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm(...)`"),
    ],
)
def test_a_lost_device_is_a_death(tmp_path, raised, driver_of, study):
    driver = driver_of(tmp_path, study({"lr": [0.1]}))
    for attempt in (1, 2, 3):
        trial = driver.start()
        assert driver.jobs[trial]["attempt"] == attempt
        driver.searcher.raised = lambda trial: raised
        driver.die(trial)
    assert driver.start() == Searcher.FINISHED
    errors = [row["error"] for row in driver.rows()]
    assert len(errors) == 3
    assert all(error.startswith("DeviceError: CUDA error: ") for error in errors)
    resumed = driver_of(tmp_path, study({"lr": [0.1]}))
    assert resumed.start() == Searcher.FINISHED


def test_deaths_of_all_kinds_count_together(tmp_path, driver_of, study):
    driver = driver_of(tmp_path, study({"lr": [0.1]}))
    missing = exceptions.RayTaskError("f", "trace\nImportError: x\n", ImportError())
    deaths = (exceptions.OutOfMemoryError("a page"), exceptions.ActorDiedError(missing), None)
    for attempt, raised in enumerate(deaths, start=1):
        trial = driver.start()
        assert driver.jobs[trial]["attempt"] == attempt
        driver.searcher.raised = lambda trial, raised=raised: raised
        driver.die(trial)
    assert driver.start() == Searcher.FINISHED
    assert [row["error"] for row in driver.rows()] == [
        NO_MEMORY,
        NO_START + "ImportError: x",
        DEATH,
    ]


def test_a_lost_device_counts_among_them(tmp_path, driver_of, study):
    driver = driver_of(tmp_path, study({"lr": [0.1]}))
    for raised in (None, DeviceError("CUDA error: x"), None):
        trial = driver.start()
        driver.searcher.raised = lambda trial, raised=raised: raised
        driver.die(trial)
    assert driver.start() == Searcher.FINISHED
    assert len(driver.rows()) == 3


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (exceptions.ActorDiedError(), DEATH),
        (exceptions.ActorUnavailableError("no answer", None), DEATH),
        (exceptions.RayTaskError("f", "trace", ValueError("x\ny")), "ValueError: x"),
        (
            exceptions.ActorDiedError(
                exceptions.RayTaskError("f", "trace\nImportError: no module 'x'\n", ImportError())
            ),
            NO_START + "ImportError: no module 'x'",
        ),
        (
            "1 worker(s) were killed due to the node running low on memory. Memory on\na page",
            NO_MEMORY,
        ),
        ("The node with node id: 1 died", DEATH),
        (None, DEATH),
    ],
)
def test_a_row_says_how_its_worker_ended(tmp_path, error, expected, driver_of, study):
    """By what Tune keeps of a trial: an actor's error, pickled, or the words of another one."""
    driver = driver_of(tmp_path, study({"lr": [0.1]}))
    assert driver.searcher.suggest("tune1") is not None
    trial = SimpleNamespace(trial_id="tune1", pickled_error_file=None, error_file=None)
    if isinstance(error, Exception):
        trial.pickled_error_file = str(tmp_path / "error.pkl")
        (tmp_path / "error.pkl").write_bytes(cloudpickle.dumps(error))
    if error is not None:
        trial.error_file = str(tmp_path / "error.txt")
        (tmp_path / "error.txt").write_text(f"Failure # 1 (occurred at 2026)\n{error}\n")
    other = SimpleNamespace(trial_id="tune0")
    Starts(driver.searcher).on_step_begin(1, [other, trial])  # it has no worker yet
    driver.die("tune1")
    assert driver.rows()[0]["error"] == expected


@pytest.mark.parametrize(
    "raised",
    [
        OutOfMemoryError("the memory of the GPU is full"),
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        MemoryError(),
    ],
)
def test_a_full_memory_that_ended_the_worker_is_tried_once_with_a_larger_share(
    tmp_path, raised, driver_of, study
):
    driver = driver_of(tmp_path, study({"lr": [0.1]}), gpus=0.25)
    for share in (0.25, 0.5):
        trial = driver.start()
        assert driver.jobs[trial]["gpus"] == share
        driver.searcher.raised = lambda trial: raised
        driver.die(trial)
    assert driver.start() == Searcher.FINISHED
    assert all(row["error"].startswith("OutOfMemoryError: ") for row in driver.rows())


@pytest.mark.parametrize(("share", "then"), [(0.25, 0.5), (0.7, 1.0)])
def test_out_of_memory_is_tried_once_with_a_larger_share(tmp_path, share, then, driver_of, study):
    driver = driver_of(tmp_path, study({"lr": [0.1]}), gpus=share)
    driver.end(driver.start(), status="failed", error=FULL)
    trial = driver.start()
    assert driver.jobs[trial]["gpus"] == then
    driver.end(trial, status="failed", error=FULL)
    assert driver.start() == Searcher.FINISHED
    assert len(driver.rows()) == 2


def test_out_of_memory_on_a_whole_gpu_is_final(tmp_path, driver_of, study):
    driver = driver_of(tmp_path, study({"lr": [0.1]}), gpus=1.0)
    driver.end(driver.start(), status="failed", error=FULL)
    assert driver.start() == Searcher.FINISHED

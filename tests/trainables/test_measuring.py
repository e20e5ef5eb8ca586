"""What a row says of costs and contributions, and students that are not trained for theirs."""

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch

from trainables.compression.measure import count_params, nonzero_params
from trainables.config import TrialConfig
from trainables.errors import UserError
from trainables.job import PROGRESS, Job, Run
from trainables.measurement.activations import activation_bytes_of
from trainables.measurement.operations import bit_operations_of
from trainables.objectives import BATCHES
from trainables.runtimes.registry import RUNTIMES
from trainables.runtimes.runtime import Runtime
from trainables.trainable import DistillTrainable

CPU = torch.device("cpu")
Quick = Callable[..., TrialConfig]
MakeJob = Callable[..., Job]
COSTS = ("params", "nonzero_params", "macs", "size_bytes", "bit_operations")


def finish(run: Run) -> dict[str, Any]:
    while not run.finished:
        run.run_epoch()
    return run.row("completed")


def bounded(job: Job, **constraints: str) -> Job:
    return Job(**(job.to_dict() | {"constraints": constraints}))


def test_a_row_tells_what_the_student_costs(quick: Quick, make_job: MakeJob) -> None:
    run = Run(make_job(quick(epochs=1), "costs"), CPU)
    row, student = finish(run), run.training.student
    what = student.blueprint, 10, run.dataset.image_shape
    assert row["nonzero_params"] == nonzero_params(student)
    assert 0.9 * row["params"] < row["nonzero_params"] <= row["params"]
    assert row["bit_operations"] == bit_operations_of(*what) == 1024 * row["macs"]
    assert row["activation_bytes"] == activation_bytes_of(*what)
    taken = json.loads(row["latencies"])
    assert {name: sorted(found) for name, found in taken.items()} == {"eager": ["1", "64"]}
    assert row["latency_ms"] == taken["eager"]["1"]["median_ms"]
    assert row["runtime"] == "eager"
    assert 0 < row["latency_ms"] < taken["eager"]["64"]["median_ms"]
    assert all(taken["eager"][str(batch)]["iqr_ms"] >= 0 for batch in BATCHES)
    assert "violations" not in row


def test_contributions_of_a_chain_survive_an_interruption(
    digits_teacher, quick: Quick, make_job: MakeJob
) -> None:
    config = quick(
        student="resnet8_x0.5",
        teacher="resnet8",
        compression="explicit+prune+sparsify+rtn",
        epochs=2,
        **{"prune": 1.5, "prune.rounds": 2, "prune.end": 0.5, "sparsify": 0.5, "rtn": 8},
        **{"sparsify.begin": 0.5, "sparsify.end": 0.5},
    )
    job = make_job(config, "chain")
    first = Run(job, CPU)
    first.run_epoch()
    begun = json.loads(first.row("stopped")["contributions"])
    run = Run(job, CPU)
    assert run.training.epoch == 1
    row = finish(run)
    parts = {one.pop("part"): one for one in json.loads(row["contributions"])}
    assert list(parts) == ["teacher", "explicit", "prune", "sparsify", "rtn"]
    assert all(set(costs) == set(COSTS) for costs in parts.values())
    assert [one["part"] for one in begun][:2] == ["teacher", "explicit"]
    assert {one.pop("part"): one for one in begun}["explicit"] == parts["explicit"]
    teacher = digits_teacher.load().network
    assert parts["teacher"]["params"] == row["teacher_params"] > parts["explicit"]["params"]
    assert parts["teacher"]["nonzero_params"] == nonzero_params(teacher, frozen=True) > 0
    # The last of two rounds counts: 1.5 times fewer MACs in the end.
    whole, cut = parts["explicit"]["macs"], parts["prune"]["macs"]
    assert whole / cut == pytest.approx(1.5, rel=0.05)
    assert parts["sparsify"]["params"] == parts["prune"]["params"] == row["params"]
    assert parts["sparsify"]["nonzero_params"] < 0.6 * parts["prune"]["nonzero_params"]
    assert parts["rtn"]["size_bytes"] < 0.5 * parts["sparsify"]["size_bytes"]
    assert parts["rtn"] == {key: row[key] for key in COSTS}


def test_a_runtime_that_cannot_run_a_student_costs_its_numbers_alone(
    quick: Quick, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Refusing(Runtime):
        def ready(self, network: Any, images: Any) -> Any:
            raise UserError("refusing: cannot run it")

    monkeypatch.setitem(RUNTIMES._own, "refusing", Refusing)  # type: ignore[index]
    row = finish(Run(make_job(quick(epochs=1, latencies="eager+refusing"), "refused"), CPU))
    assert row["status"] == "completed"
    assert json.loads(row["latencies"])["refusing"] == {"error": "refusing: cannot run it"}


# Constraints


@pytest.mark.parametrize(
    "constraint", [{"params": "<= 1000"}, {"latency_ms": "<= 1e-6"}, {"macs": ">= 1e12"}]
)
def test_a_student_beyond_a_bound_is_never_trained(
    quick: Quick, make_job: MakeJob, constraint: dict[str, str]
) -> None:
    ((name, text),) = constraint.items()
    job = bounded(make_job(quick(), f"beyond {name}"), **constraint)
    trial = DistillTrainable.__new__(DistillTrainable)
    trial.device = CPU
    trial._start(job.to_dict())
    result = trial.step()
    (row,) = result["trial"]
    assert result["done"]
    assert result["epochs"] == []
    assert row["status"] == "infeasible"
    assert row["epochs"] == 0
    assert "val_acc" not in row
    bound = float(text[3:])
    beyond = row[name] - bound if text.startswith("<") else bound - row[name]
    assert json.loads(row["violations"]) == {name: pytest.approx(beyond)}
    unit = " ms" if name == "latency_ms" else ""
    assert (
        row["error"]
        == f"not trained: {name} is {row[name]:.6g}, expected {text[:2]} {bound:g}{unit}"
    )
    assert ("latencies" in row) == (name == "latency_ms")
    assert job.folder.names() == []


def test_constraints_on_what_training_brings_are_judged_behind_it(
    quick: Quick, make_job: MakeJob
) -> None:
    plain = finish(Run(make_job(quick(epochs=1), "plain"), CPU))
    bounds = {"val_acc": ">= 0.999", "params": "<= 1e9", "latency_ms": "<= 1000"}
    run = Run(bounded(make_job(quick(epochs=1), "judged"), **bounds), CPU)
    assert run.refusal() is None
    row = finish(run)
    assert row["status"] == "completed"
    assert json.loads(row["violations"]) == {"val_acc": pytest.approx(0.999 - row["val_acc"])}
    same = ("train_loss", "val_loss", "val_acc", "test_acc", "config_key", "student")
    assert {key: row[key] for key in same} == {key: plain[key] for key in same}


CHAIN = {"student": "resnet8_x0.5", "compression": "explicit+prune", "epochs": 2}


@pytest.mark.parametrize(
    ("settings", "constraints", "refused"),
    [
        # At the beginning the step itself is taken: known to a parameter.
        ({"prune": 2.0}, {"compression_macs": ">= 1", "macs": "<= {0.6}"}, None),
        ({"prune": 2.0}, {"macs": "<= {0.4}"}, "macs is "),
        ({"prune": 2.0}, {"params": "<= 10"}, "params is "),
        # Later, what it promises: its factor of MACs, and nothing of parameters.
        ({"prune": 2.0, "prune.begin": 0.5, "prune.end": 0.5}, {"macs": "<= {0.6}"}, None),
        (
            {"prune": 2.0, "prune.begin": 0.5, "prune.end": 0.5},
            {"macs": "<= {0.4}"},
            "with what prune can still change",
        ),
        ({"prune": 2.0, "prune.begin": 0.5, "prune.end": 0.5}, {"params": "<= 10"}, None),
        # Half of two rounds is done, and may be all that there will be.
        ({"prune": 2.0, "prune.rounds": 2, "prune.end": 0.5}, {"macs": "<= {0.6}"}, None),
        ({"prune": 2.0, "prune.rounds": 2, "prune.end": 0.5}, {"macs": ">= {0.49}"}, None),
        ({"prune": 2.0, "prune.rounds": 2, "prune.end": 0.5}, {"macs": ">= {0.9}"}, "macs is "),
    ],
)
def test_a_chain_is_judged_by_what_can_be_told_of_it(
    digits_teacher, quick: Quick, make_job: MakeJob, settings, constraints, refused
) -> None:
    job = make_job(quick(teacher="resnet8", **CHAIN, **settings), "judged chain")
    whole = Run(job, CPU).row("stopped")["macs"]
    given = {
        name: f"{text[:3]}{float(text[4:-1]) * whole}" if "{" in text else text
        for name, text in constraints.items()
    }
    why = Run(bounded(job, **given), CPU).refusal()
    assert why is None if refused is None else refused in str(why)


def test_bits_that_are_to_come_are_counted_in(quick: Quick, make_job: MakeJob) -> None:
    job = make_job(quick(compression="explicit+rtn", rtn=8, epochs=1), "bits")
    size = Run(job, CPU).row("stopped")["size_bytes"]
    assert Run(bounded(job, size_bytes=f"<= {size / 3}"), CPU).refusal() is None
    assert Run(bounded(job, size_bytes=f"<= {size / 5}"), CPU).refusal() is not None
    assert Run(bounded(job, params="<= 10"), CPU).refusal() is not None


def test_the_steps_of_the_beginning_are_taken_once(quick: Quick, make_job: MakeJob) -> None:
    """Whether somebody looks at the student before or not, also behind a checkpoint of then."""
    config = quick(**CHAIN, prune=2.0)
    plain = finish(Run(make_job(config, "unjudged"), CPU))
    job = bounded(make_job(config, "looked at"), params="<= 1e9")
    run = Run(job, CPU)
    assert run.refusal() is None
    job.folder.write(PROGRESS, run.checkpoint())
    again = Run(job, CPU)
    assert again.training.begun == ["prune"]
    assert again.refusal() is None
    row = finish(again)
    same = ("train_loss", "val_loss", "test_acc", "params", "macs", "student", "contributions")
    assert {key: row[key] for key in same} == {key: plain[key] for key in same}
    assert count_params(again.training.student) == row["params"]


def test_what_was_chosen_is_confirmed(quick: Quick, make_job: MakeJob) -> None:
    config = quick(epochs=1, stage="confirm", val_fraction=0.0)
    run = Run(bounded(make_job(config, "confirmed"), params="<= 1000", val_acc=">= 1"), CPU)
    assert run.refusal() is None
    assert set(json.loads(finish(run)["violations"])) == {"params"}

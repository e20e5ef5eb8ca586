"""Rows of ``trials`` and ``epochs`` as they are filled in: as begun, as trained."""

import json
import math
import platform
import resource
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from trainables.columns import EpochRow, TrialRow
from trainables.compression.measure import count_params, nonzero_params, size_bytes
from trainables.data.dataset import Dataset
from trainables.measurement.costs import costs_of, peak_of
from trainables.measurement.operations import bit_operations_of
from trainables.methods.term import NO_OTHERS, STUDENT
from trainables.models.outputs import Network
from trainables.tasks.registry import TASKS
from trainables.tasks.task import Score
from trainables.teachers.classes import remark
from trainables.teachers.start import Start
from trainables.teachers.teacher import Teacher
from trainables.training import Training
from trainables.training.learner import Learner
from trainables.version import code_version, versions


def with_facts(
    row: TrialRow,
    dataset: Dataset,
    teacher: Teacher | None,
    device: torch.device,
    start: Start | None = None,
    others: Mapping[str, Teacher] = NO_OTHERS,
) -> TrialRow:
    """A row with what else is known before the first epoch.

    Args:
        row: as `trainables.experiment.asked` gives it.
        dataset, teacher, device: what it is trained with; None without a teacher.
        start: what the student begins with; None for fresh weights.
        others: further teachers, by role.
    """
    names = {role: one.card.name for role, one in others.items()}
    row = replace(
        row,
        start=start.card.name if start else None,
        teachers=json.dumps(names) if names else None,
        metric=TASKS[dataset.task].headline.name,
        host=platform.node(),
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        code_version=code_version(),
        versions=json.dumps(versions()),
    )
    if teacher:
        card = teacher.card
        row.teacher, row.teacher_test_acc = card.name, card.test_acc
        row.teacher_test_score = card.test_acc if card.test_score is None else card.test_score
        row.teacher_note = remark(card, dataset)
        row.teacher_params, row.teacher_macs = card.params, card.macs
    return row


def with_costs(
    row: TrialRow, student: Network, dataset: Dataset, teacher: Teacher | None
) -> TrialRow:
    """A row with what the student is at this moment, and what it costs beside its teacher."""
    costs = costs_of(student, dataset.image_shape)
    row = replace(row, student=student.blueprint.label)
    row.params, row.nonzero_params = costs["params"], costs["nonzero_params"]
    row.macs, row.bit_operations = costs["macs"], costs["bit_operations"]
    row.size_bytes = costs["size_bytes"]
    row.activation_bytes = peak_of(student, dataset.image_shape)
    if teacher:
        row.compression_params = teacher.card.params / costs["params"]
        row.compression_macs = teacher.card.macs / costs["macs"]
        row.compression_bytes = size_bytes(teacher.network) / costs["size_bytes"]
    return row


def teacher_costs(teacher: Teacher, dataset: Dataset) -> dict[str, int]:
    """`costs_of` a teacher, whose weights count although they are frozen."""
    card, network = teacher.card, teacher.network
    return {
        "params": card.params,
        "nonzero_params": nonzero_params(network, frozen=True),
        "macs": card.macs,
        "size_bytes": size_bytes(network),
        "bit_operations": bit_operations_of(
            network.blueprint, network.classifier.out_features, dataset.image_shape
        ),
    }


def contributions_of(learner: Learner, teacher: Mapping[str, int] | None) -> str:
    """JSON of what there was behind every part of the compression: the teacher first, if there
    is one, then the architecture, then the steps whose moments have come.

    Args:
        learner: the student.
        teacher: as `teacher_costs` gives it.
    """
    parts = [{"part": "teacher", **teacher}] if teacher else []
    parts += [{"part": part, **costs} for part, costs in learner.contributions.items()]
    return json.dumps(parts)


def epoch_row(sweep: str, trial_id: str, attempt: int, epoch: Mapping[str, Any]) -> dict[str, Any]:
    """A row of ``epochs``, as far as it is known.

    Args:
        sweep, trial_id, attempt: whose.
        epoch: what `Training.run_epoch` said of it.
    """
    row = EpochRow(
        sweep=sweep,
        trial_id=trial_id,
        attempt=attempt,
        epoch=epoch["epoch"],
        lr=epoch["lr"],
        train_loss=epoch["train_loss"],
        val_loss=epoch["val_loss"],
        val_acc=epoch["val_acc"],
        val_score=epoch["val_score"],
        seconds=epoch["seconds"],
        images_per_second=epoch["images_per_second"],
    )
    return row.known()


def metrics_of(
    val: Mapping[str, float],
    test: Mapping[str, float],
    tested_classes: Mapping[str, float] | None = None,
) -> str | None:
    """JSON of the metrics beside the headline; None for a task that has none.

    Args:
        val, test: the metrics of a task by name, the headline first; empty where not measured.
        tested_classes: the headline of every class on the test set, by the class's name.

    NaN, for which JSON has no word, becomes null: of a class that no image has, say.
    """
    parts = {"val": val, "test": test}
    beside: dict[str, Any] = {
        f"{part}_{name}": _or_null(value)
        for part, values in parts.items()
        for name, value in [*values.items()][1:]
    }
    if tested_classes:
        beside["test_by_class"] = {name: _or_null(one) for name, one in tested_classes.items()}
    return json.dumps(beside) if beside else None


def _or_null(value: float) -> float | None:
    return None if math.isnan(value) else value


def add_training(row: TrialRow, training: Training, epochs: Sequence[Mapping[str, Any]]) -> None:
    """Fills in what a training has come to so far.

    Args:
        row: of the student.
        training: of it.
        epochs: what `Training.run_epoch` said of each.
    """
    last = epochs[-1] if epochs else {}
    row.epochs, row.train_seconds = training.epoch, training.train_seconds
    row.train_loss, row.val_loss = last.get("train_loss"), last.get("val_loss")
    row.val_acc, row.val_score = last.get("val_acc"), last.get("val_score")
    row.metrics = metrics_of(last.get("val", {}), {})
    row.term_losses = json.dumps(last.get("term_losses", {}))
    row.term_weights = json.dumps(training.method.weights)
    row.optimizer_groups = json.dumps(training.learner.updates.groups(STUDENT))
    row.precision, row.teacher_precision = training.precision, training.teacher_precision
    row.teacher_cache_hit_rate = training.hit_rate
    if maps := training.attribution_maps:
        row.attribution_maps = json.dumps(maps)
    if epochs:
        seen = sum(epoch["images_per_second"] * epoch["seconds"] for epoch in epochs)
        row.images_per_second = seen / training.train_seconds


def add_test(row: TrialRow, training: Training, epochs: Sequence[Mapping[str, Any]]) -> Score:
    """Reads the test set, and fills in what the student and those beside it score there.

    Args:
        row, training, epochs: as for `add_training`, after the last epoch.

    Returns:
        The student's scores.
    """
    tested = training.test()
    student = tested.pop(STUDENT)
    row.test_acc, row.test_score = student.acc, student.headline
    row.test_loss = student.loss
    by_class = dict(zip(training.dataset.classes, student.by_class, strict=False))
    row.metrics = metrics_of(epochs[-1].get("val", {}), student.values, by_class)
    peers: list[dict[str, Any]] = []
    for name, score in tested.items():
        val = training.val_score(name)
        peers.append(
            {
                "name": name,
                "params": count_params(training.learner.networks[name]),
                f"val_{row.metric}": _or_null(val.headline) if val else None,
                f"test_{row.metric}": _or_null(score.headline),
            }
        )
    if peers:
        row.peers = json.dumps(peers)
        row.peer_val_acc = _mean([peer.get("val_acc") for peer in peers])
        row.peer_test_acc = _mean([peer.get("test_acc") for peer in peers])
    return student


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def peak_memory(device: torch.device) -> int:
    """Bytes at the highest so far: allocated on the GPU, or resident in this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

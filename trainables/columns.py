"""Columns: all that a row of the store's tables may hold, and what it means.

The records are the only way to make a row, so that none has a column that there is not: a
wrong name is an error of the type checker, and of the line that writes it. The schema of the
store, the objectives that a study may have, what is averaged over seeds and ``kdsweep query
--columns`` are read from the same fields.
"""

import dataclasses
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

from trainables.column import Column, Need, Row, column, columns_of

TableName = Literal["trials", "epochs", "proposals"]


_Part = Literal["val", "test"]

_SCORES: Mapping[str, tuple[str, Need]] = {
    "localisation": ("ROC AUC of maps against masks", "masks"),
    "pointing": ("maps whose greatest value is on the class", "masks"),
    "miou": ("IoU of maps and masks, mean over classes", "masks"),
    "preservation": ("maps like the teacher's, beyond chance", "teacher"),
    "agreement": ("explained images with the teacher's answer", "teacher"),
}


def _explained(part: _Part, name: str) -> Any:
    """A score of the student's maps: the mean over the explainers."""
    words, need = _SCORES[name]
    needs = _needs(part, need)
    return column("measured", f"{words}: {_IMAGES[part]}", *needs, unit="fraction", better="max")


def _empty_maps(part: _Part) -> Any:
    words = f"constant maps, which no score rewards: {_IMAGES[part]}"
    return column("measured", words, *_needs(part), better="min")


_IMAGES = {"val": "of validation images", "test": "of the test set"}


def _needs(part: _Part, *further: Need) -> tuple[Need, ...]:
    return "explainers", *further, "validation" if part == "val" else "test"


@dataclasses.dataclass(kw_only=True, slots=True)
class TrialRow(Row):
    """A row of ``trials``: one attempt that ended. Its order is the order of the table."""

    sweep: str | None = column("identity", "name of the sweep: of its folder")
    trial_id: str | None = column("identity", "the trial's name in its sweep")
    config_key: str | None = column("identity", "hash of all that decides the result")
    stage: str | None = column("setting", "search, or confirm: trained again on all images")
    status: str | None = column("result", "completed, stopped, failed or infeasible")
    error: str | None = column("result", "why it failed, in one line")
    method: str | None = column("setting", "terms joined by '+'")
    dataset: str | None = column("setting", "name of the data set")
    teacher: str | None = column("fact", "name of the teacher", "teacher")
    student: str | None = column(
        "fact", "the network that was trained: its model, and ~DIGEST where steps changed it"
    )
    student_requested: str | None = column("setting", "the student, or family, as asked for")
    compression_kind: str | None = column("setting", "how the student was to become small: a chain")
    term_losses: str | None = column(
        "result", "JSON: mean of every summand of the loss in the last epoch"
    )
    host: str | None = column("fact", "name of the machine")
    device: str | None = column("fact", "cpu, or name of the GPU")
    code_version: str | None = column("fact", "of kdsweep")
    versions: str | None = column("fact", "JSON: of Python and the libraries")
    config: str | None = column("setting", "JSON: every setting of the trial")
    term_weights: str | None = column("result", "JSON: weight of every summand of the loss")
    peers: str | None = column(
        "result", "JSON: name, parameters and accuracies of every peer", "peers"
    )
    precision: str | None = column("result", "of the student's arithmetic: fp32 or bf16")
    teacher_precision: str | None = column("result", "of the teacher's arithmetic", "teacher")
    teacher_note: str | None = column(
        "fact", "what differs between the teacher's images and these", "teacher"
    )
    metric: str | None = column("fact", "by which the data set's task selects: acc, map")
    metrics: str | None = column(
        "result", "JSON: the task's other metrics: val_f1, test_f1, test_by_class"
    )
    runtime: str | None = column("result", "what latency_ms was taken with: see latencies")
    latencies: str | None = column(
        "result", "JSON: by runtime and batch size, median_ms and iqr_ms of one batch"
    )
    contributions: str | None = column(
        "result", "JSON: of every part of the compression, what the student was behind it"
    )
    violations: str | None = column(
        "result", "JSON: of every constraint that does not hold, by how much, in its own unit"
    )
    start: str | None = column("fact", "name of the network whose weights the student began with")
    optimizer_groups: str | None = column(
        "fact", "JSON: by update rule, the parameters that it updates"
    )
    attribution_maps: str | None = column(
        "fact", "JSON: how the teacher's maps were made that it was trained with", "teacher"
    )
    attributions: str | None = column(
        "result", "JSON: every score of maps, by val and test and by explainer", "explainers"
    )
    teachers: str | None = column(
        "fact", "JSON: names of further teachers that the method reads, by role", "teacher"
    )
    attempt: int | None = column("identity", "1 for the first; the last one counts")
    params: int | None = column("fact", "trainable parameters of the student", better="min")
    macs: int | None = column(
        "fact", "multiply-accumulates of the student for one image", better="min"
    )
    size_bytes: int | None = column(
        "fact", "of the student at its own bit width", unit="bytes", better="min"
    )
    teacher_params: int | None = column("fact", "trainable parameters of the teacher", "teacher")
    teacher_macs: int | None = column(
        "fact", "multiply-accumulates of the teacher for one image", "teacher"
    )
    seed: int | None = column("setting", "of the initialisation and the order of the images")
    view_seed: int | None = column("setting", "of the augmented views")
    epochs: int | None = column("result", "epochs done")
    peak_memory_bytes: int | None = column(
        "measured",
        "of the training: on the GPU, else of the whole process",
        unit="bytes",
        better="min",
    )
    schema_version: int | None = column("identity", "of the table that the row was written for")
    nonzero_params: int | None = column(
        "fact", "trainable parameters of the student that are not zero", better="min"
    )
    bit_operations: int | None = column(
        "fact",
        "for one image: multiply-accumulates x bits of weight x bits of input",
        better="min",
    )
    activation_bytes: int | None = column(
        "fact",
        "most that lives at once for one image, weights not counted",
        unit="bytes",
        better="min",
    )
    val_empty_maps: int | None = _empty_maps("val")
    test_empty_maps: int | None = _empty_maps("test")
    compression_requested: float | None = column(
        "setting", "blocks, multiplier or factor, as the choice of compression_kind says"
    )
    compression_params: float | None = column(
        "fact",
        "parameters of the teacher / student",
        "teacher",
        better="max",
    )
    compression_macs: float | None = column(
        "fact",
        "multiply-accumulates of the teacher / student",
        "teacher",
        better="max",
    )
    compression_bytes: float | None = column(
        "fact",
        "bytes of the teacher / student",
        "teacher",
        better="max",
    )
    latency_ms: float | None = column(
        "measured", "of one image through the student, median", unit="ms", better="min"
    )
    train_loss: float | None = column(
        "measured", "mean over the last epoch, all terms", better="min"
    )
    val_loss: float | None = column(
        "measured", "cross-entropy of validation images", "validation", unit="nats", better="min"
    )
    test_loss: float | None = column(
        "measured", "cross-entropy of the test set", "test", unit="nats", better="min"
    )
    val_acc: float | None = column(
        "measured",
        "of validation images, which no training saw",
        "validation",
        unit="fraction",
        better="max",
    )
    test_acc: float | None = column(
        "measured",
        "of the test set, read once after the last epoch",
        "test",
        unit="fraction",
        better="max",
    )
    teacher_test_acc: float | None = column(
        "fact", "of the teacher on the test set", "teacher", "test", unit="fraction", better="max"
    )
    train_seconds: float | None = column(
        "measured", "of all epochs, without validation", unit="s", better="min"
    )
    images_per_second: float | None = column(
        "measured", "training images, mean over the epochs", unit="1/s", better="max"
    )
    teacher_cache_hit_rate: float | None = column(
        "measured",
        "of the teacher's answers, looked up instead of computed",
        "teacher",
        unit="fraction",
        better="max",
    )
    peer_val_acc: float | None = column(
        "measured",
        "mean of the peers on validation images",
        "peers",
        "validation",
        unit="fraction",
        better="max",
    )
    peer_test_acc: float | None = column(
        "measured",
        "mean of the peers on the test set",
        "peers",
        "test",
        unit="fraction",
        better="max",
    )
    val_score: float | None = column(
        "measured", "the metric, of validation images", "validation", unit="fraction", better="max"
    )
    test_score: float | None = column(
        "measured", "the metric, of the test set", "test", unit="fraction", better="max"
    )
    teacher_test_score: float | None = column(
        "fact", "the metric, of the teacher", "teacher", "test", unit="fraction", better="max"
    )
    val_localisation: float | None = _explained("val", "localisation")
    val_pointing: float | None = _explained("val", "pointing")
    val_miou: float | None = _explained("val", "miou")
    val_preservation: float | None = _explained("val", "preservation")
    val_agreement: float | None = _explained("val", "agreement")
    test_localisation: float | None = _explained("test", "localisation")
    test_pointing: float | None = _explained("test", "pointing")
    test_miou: float | None = _explained("test", "miou")
    test_preservation: float | None = _explained("test", "preservation")
    test_agreement: float | None = _explained("test", "agreement")
    started_at: datetime | None = column("result", "when the attempt began", unit="UTC")  # noqa: RUF009
    ended_at: datetime | None = column("result", "when the attempt ended", unit="UTC")  # noqa: RUF009


@dataclasses.dataclass(kw_only=True, slots=True)
class EpochRow(Row):
    """A row of ``epochs``: one epoch of one attempt. Its order is the order of the table."""

    sweep: str | None = column("identity", "name of the sweep: of its folder")
    trial_id: str | None = column("identity", "the trial's name in its sweep")
    attempt: int | None = column("identity", "of the trial's row")
    epoch: int | None = column("identity", "1 for the first")
    lr: float | None = column("result", "learning rate of the last step")
    train_loss: float | None = column("measured", "mean over the epoch, all terms", better="min")
    val_loss: float | None = column(
        "measured", "cross-entropy of validation images", "validation", unit="nats", better="min"
    )
    val_acc: float | None = column(
        "measured", "of validation images", "validation", unit="fraction", better="max"
    )
    seconds: float | None = column(
        "measured", "of the training, without validation", unit="s", better="min"
    )
    images_per_second: float | None = column(
        "measured", "training images", unit="1/s", better="max"
    )
    val_score: float | None = column(
        "measured", "the trial's metric", "validation", unit="fraction", better="max"
    )


@dataclasses.dataclass(kw_only=True, slots=True)
class ProposalRow(Row):
    """A row of ``proposals``: what a sampler drew, and later how it ended; the last one counts."""

    sweep: str | None = column("identity", "name of the sweep: of its folder")
    params: str | None = column("setting", "JSON: what was drawn")
    attrs: str | None = column("setting", "JSON: what the sampler noted")
    state: str | None = column("result", "once told: trained, or answered by other trials alone")
    trial_ids: str | None = column("result", "JSON: the trials whose rows it was told")
    number: int | None = column("identity", "counts from 0")
    proposed_at: datetime | None = column("result", "when it was drawn", unit="UTC")  # noqa: RUF009


TRIALS = columns_of(TrialRow)
COLUMNS: Mapping[TableName, Mapping[str, Column]] = {
    "trials": TRIALS,
    "epochs": columns_of(EpochRow),
    "proposals": columns_of(ProposalRow),
}

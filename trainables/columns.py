"""Columns: all that a row of the store's tables may hold, and what it means.

The records are the only way to make a row, so that none has a column that there is not: a
wrong name is an error of the type checker, and of the line that writes it. The schema of the
store, the objectives that a study may have, what is averaged over seeds and ``kdsweep query
--columns`` are read from the same fields.
"""

import dataclasses
import functools
import types
import typing
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

TableName = Literal["trials", "epochs", "proposals"]
Kind = type[str] | type[int] | type[float] | type[datetime]
Direction = Literal["max", "min"]
Role = Literal["identity", "setting", "fact", "measured", "result"]
Need = Literal["teacher", "peers", "validation", "test"]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """What is known of one column.

    Attributes:
        name: as SQL has it.
        kind: of its values; any may be missing.
        role: ``identity`` (which attempt at which trial it is), ``setting`` (what was asked for),
            ``fact`` (of the machine and the networks: the same for every seed, unless a step of
            the compression made the students differ), ``measured`` (a number of the student that
            was trained: it differs from seed to seed, and is averaged over seeds) or ``result``
            (what else became of the trial).
        help: one line.
        unit: empty where it has none.
        better: which end is the better one; None where there is none: no objective.
        needs: what a trial must have for a value: a teacher, peers, validation images, or the
            test set, on which nothing is ever selected.
    """

    name: str
    kind: Kind
    role: Role
    help: str
    unit: str = ""
    better: Direction | None = None
    needs: tuple[Need, ...] = ()


def _column(
    role: Role,
    help: str,
    *needs: Need,
    unit: str = "",
    better: Direction | None = None,
) -> Any:
    facts = {"role": role, "help": help, "needs": needs, "unit": unit, "better": better}
    return dataclasses.field(default=None, metadata=facts)


@dataclasses.dataclass(slots=True)
class _Row:
    def known(self) -> dict[str, Any]:
        """The columns that have a value, as the store takes them."""
        values = ((field.name, getattr(self, field.name)) for field in dataclasses.fields(self))
        return {name: value for name, value in values if value is not None}


@dataclasses.dataclass(kw_only=True, slots=True)
class TrialRow(_Row):
    """A row of ``trials``: one attempt that ended. Its order is the order of the table."""

    sweep: str | None = _column("identity", "name of the sweep: of its folder")
    trial_id: str | None = _column("identity", "the trial's name in its sweep")
    config_key: str | None = _column("identity", "hash of all that decides the result")
    stage: str | None = _column("setting", "search, or confirm: trained again on all images")
    status: str | None = _column("result", "completed, stopped, failed or infeasible")
    error: str | None = _column("result", "why it failed, in one line")
    method: str | None = _column("setting", "terms joined by '+'")
    dataset: str | None = _column("setting", "name of the data set")
    teacher: str | None = _column("fact", "name of the teacher", "teacher")
    student: str | None = _column(
        "fact", "the network that was trained: its model, and ~DIGEST where steps changed it"
    )
    student_requested: str | None = _column("setting", "the student, or family, as asked for")
    compression_kind: str | None = _column(
        "setting", "how the student was to become small: a chain"
    )
    term_losses: str | None = _column(
        "result", "JSON: mean of every summand of the loss in the last epoch"
    )
    host: str | None = _column("fact", "name of the machine")
    device: str | None = _column("fact", "cpu, or name of the GPU")
    code_version: str | None = _column("fact", "of kdsweep")
    versions: str | None = _column("fact", "JSON: of Python and the libraries")
    config: str | None = _column("setting", "JSON: every setting of the trial")
    term_weights: str | None = _column("result", "JSON: weight of every summand of the loss")
    peers: str | None = _column(
        "result", "JSON: name, parameters and accuracies of every peer", "peers"
    )
    precision: str | None = _column("result", "of the student's arithmetic: fp32 or bf16")
    teacher_precision: str | None = _column("result", "of the teacher's arithmetic", "teacher")
    teacher_note: str | None = _column(
        "fact", "what differs between the teacher's images and these", "teacher"
    )
    metric: str | None = _column("fact", "by which the data set's task selects: acc, map")
    metrics: str | None = _column(
        "result", "JSON: the task's other metrics: val_f1, test_f1, test_by_class"
    )
    runtime: str | None = _column("result", "what latency_ms was taken with: see latencies")
    latencies: str | None = _column(
        "result", "JSON: by runtime and batch size, median_ms and iqr_ms of one batch"
    )
    contributions: str | None = _column(
        "result", "JSON: of every part of the compression, what the student was behind it"
    )
    violations: str | None = _column(
        "result", "JSON: of every constraint that does not hold, by how much, in its own unit"
    )
    start: str | None = _column("fact", "name of the network whose weights the student began with")
    optimizer_groups: str | None = _column(
        "fact", "JSON: by update rule, the parameters that it updates"
    )
    attribution_maps: str | None = _column(
        "fact",
        "JSON: of the teacher's maps that it was trained with: explainer, target, baseline, steps, "
        "mean completeness error, alignment",
        "teacher",
    )
    attempt: int | None = _column("identity", "1 for the first; the last one counts")
    params: int | None = _column("fact", "trainable parameters of the student", better="min")
    macs: int | None = _column(
        "fact", "multiply-accumulates of the student for one image", better="min"
    )
    size_bytes: int | None = _column(
        "fact", "of the student at its own bit width", unit="bytes", better="min"
    )
    teacher_params: int | None = _column("fact", "trainable parameters of the teacher", "teacher")
    teacher_macs: int | None = _column(
        "fact", "multiply-accumulates of the teacher for one image", "teacher"
    )
    seed: int | None = _column("setting", "of the initialisation and the order of the images")
    view_seed: int | None = _column("setting", "of the augmented views")
    epochs: int | None = _column("result", "epochs done")
    peak_memory_bytes: int | None = _column(
        "measured",
        "of the training: on the GPU, else of the whole process",
        unit="bytes",
        better="min",
    )
    schema_version: int | None = _column("identity", "of the table that the row was written for")
    nonzero_params: int | None = _column(
        "fact", "trainable parameters of the student that are not zero", better="min"
    )
    bit_operations: int | None = _column(
        "fact",
        "for one image: multiply-accumulates x bits of weight x bits of input",
        better="min",
    )
    activation_bytes: int | None = _column(
        "fact",
        "most that lives at once for one image, weights not counted",
        unit="bytes",
        better="min",
    )
    compression_requested: float | None = _column(
        "setting", "blocks, multiplier or factor, as the choice of compression_kind says"
    )
    compression_params: float | None = _column(
        "fact",
        "parameters of the teacher / student",
        "teacher",
        better="max",
    )
    compression_macs: float | None = _column(
        "fact",
        "multiply-accumulates of the teacher / student",
        "teacher",
        better="max",
    )
    compression_bytes: float | None = _column(
        "fact",
        "bytes of the teacher / student",
        "teacher",
        better="max",
    )
    latency_ms: float | None = _column(
        "measured", "of one image through the student, median", unit="ms", better="min"
    )
    train_loss: float | None = _column(
        "measured", "mean over the last epoch, all terms", better="min"
    )
    val_loss: float | None = _column(
        "measured", "cross-entropy of validation images", "validation", unit="nats", better="min"
    )
    test_loss: float | None = _column(
        "measured", "cross-entropy of the test set", "test", unit="nats", better="min"
    )
    val_acc: float | None = _column(
        "measured",
        "of validation images, which no training saw",
        "validation",
        unit="fraction",
        better="max",
    )
    test_acc: float | None = _column(
        "measured",
        "of the test set, read once after the last epoch",
        "test",
        unit="fraction",
        better="max",
    )
    teacher_test_acc: float | None = _column(
        "fact", "of the teacher on the test set", "teacher", "test", unit="fraction", better="max"
    )
    train_seconds: float | None = _column(
        "measured", "of all epochs, without validation", unit="s", better="min"
    )
    images_per_second: float | None = _column(
        "measured", "training images, mean over the epochs", unit="1/s", better="max"
    )
    teacher_cache_hit_rate: float | None = _column(
        "measured",
        "of the teacher's answers, looked up instead of computed",
        "teacher",
        unit="fraction",
        better="max",
    )
    peer_val_acc: float | None = _column(
        "measured",
        "mean of the peers on validation images",
        "peers",
        "validation",
        unit="fraction",
        better="max",
    )
    peer_test_acc: float | None = _column(
        "measured",
        "mean of the peers on the test set",
        "peers",
        "test",
        unit="fraction",
        better="max",
    )
    val_score: float | None = _column(
        "measured", "the metric, of validation images", "validation", unit="fraction", better="max"
    )
    test_score: float | None = _column(
        "measured", "the metric, of the test set", "test", unit="fraction", better="max"
    )
    teacher_test_score: float | None = _column(
        "fact", "the metric, of the teacher", "teacher", "test", unit="fraction", better="max"
    )
    started_at: datetime | None = _column("result", "when the attempt began", unit="UTC")  # noqa: RUF009
    ended_at: datetime | None = _column("result", "when the attempt ended", unit="UTC")  # noqa: RUF009


@dataclasses.dataclass(kw_only=True, slots=True)
class EpochRow(_Row):
    """A row of ``epochs``: one epoch of one attempt. Its order is the order of the table."""

    sweep: str | None = _column("identity", "name of the sweep: of its folder")
    trial_id: str | None = _column("identity", "the trial's name in its sweep")
    attempt: int | None = _column("identity", "of the trial's row")
    epoch: int | None = _column("identity", "1 for the first")
    lr: float | None = _column("result", "learning rate of the last step")
    train_loss: float | None = _column("measured", "mean over the epoch, all terms", better="min")
    val_loss: float | None = _column(
        "measured", "cross-entropy of validation images", "validation", unit="nats", better="min"
    )
    val_acc: float | None = _column(
        "measured", "of validation images", "validation", unit="fraction", better="max"
    )
    seconds: float | None = _column(
        "measured", "of the training, without validation", unit="s", better="min"
    )
    images_per_second: float | None = _column(
        "measured", "training images", unit="1/s", better="max"
    )
    val_score: float | None = _column(
        "measured", "the trial's metric", "validation", unit="fraction", better="max"
    )


@dataclasses.dataclass(kw_only=True, slots=True)
class ProposalRow(_Row):
    """A row of ``proposals``: what a sampler drew, and later how it ended; the last one counts."""

    sweep: str | None = _column("identity", "name of the sweep: of its folder")
    params: str | None = _column("setting", "JSON: what was drawn")
    attrs: str | None = _column("setting", "JSON: what the sampler noted")
    state: str | None = _column("result", "once told: trained, or answered by other trials alone")
    trial_ids: str | None = _column("result", "JSON: the trials whose rows it was told")
    number: int | None = _column("identity", "counts from 0")
    proposed_at: datetime | None = _column("result", "when it was drawn", unit="UTC")  # noqa: RUF009


@functools.cache
def columns_of(row: type) -> Mapping[str, Column]:
    """The columns of a kind of row by name, in the order of its table."""
    hints = typing.get_type_hints(row)
    found = {}
    for field in dataclasses.fields(row):
        kind = typing.get_args(hints[field.name])[0]
        found[field.name] = Column(name=field.name, kind=kind, **field.metadata)
    return types.MappingProxyType(found)


TRIALS = columns_of(TrialRow)
COLUMNS: Mapping[TableName, Mapping[str, Column]] = {
    "trials": TRIALS,
    "epochs": columns_of(EpochRow),
    "proposals": columns_of(ProposalRow),
}

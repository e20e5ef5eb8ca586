"""One attempt at one trial: a Training with its progress on disk."""

import functools
import json
import logging
import platform
import resource
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import torch

from trainables.compression.architecture import choose_student
from trainables.compression.measure import count_params, latency_of, macs_of, size_bytes
from trainables.config import TrialConfig, config_key
from trainables.data.sources import load_dataset
from trainables.errors import DeviceError, OutOfMemoryError
from trainables.evaluation import Score
from trainables.failures import explained, meaning
from trainables.files import Folder, open_folder
from trainables.models.weights import Card, save_network
from trainables.progress_file import UnusableProgress, pack_progress, unpack_progress
from trainables.teachers.classes import remark
from trainables.teachers.teacher import load_teacher
from trainables.training import Training
from trainables.version import code_version, versions

log = logging.getLogger(__name__)

RETRY_SECONDS = 5.0
PROGRESS = "progress.pt"
STUDENT = "student.safetensors"


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a worker needs to run one attempt at a trial.

    Attributes:
        config: flat, as `TrialConfig.to_dict` gives it.
        sweep, trial_id: who asked.
        results: folder or URI where the sweep keeps its results.
        data_dir: as ``--data``.
        teacher: name of the teacher's file in the results folder; None without one.
        teacher_fingerprint: of the teacher that is meant; None: of whatever has the name.
        attempt: 1 for the first.
        cpus, gpus: what the attempt asks of Ray.
        checkpoint_seconds: least time between two checkpoints; 0 for one after every epoch.
    """

    config: dict[str, Any]
    sweep: str
    trial_id: str
    results: str
    data_dir: str | None = None
    teacher: str | None = None
    teacher_fingerprint: str | None = None
    attempt: int = 1
    cpus: float = 1.0
    gpus: float = 0.0
    checkpoint_seconds: float = 60.0

    def to_dict(self) -> dict[str, Any]:
        """A plain dict, for Ray."""
        return asdict(self)

    @property
    def folder(self) -> Folder:
        """Where this trial keeps its weights, and its progress until its row is booked."""
        return trial_folder(self.results, self.sweep, self.trial_id)


def trial_folder(results: str, sweep: str, trial_id: str) -> Folder:
    """Where a trial keeps its weights and its progress."""
    return open_folder(results) / sweep / "checkpoints" / trial_id


class Run:
    """A job under way on one device.

    Continues from the trial's last checkpoint where there is one. Rows of epochs before it
    are part of the checkpoint, so that none is lost with the process that reported them. What
    cannot be gone on from (another config's, another version's, damaged) is left, and said.

    Args:
        job: what to run.
        device: where.
        keep: whether checkpoints, and in the end the student's weights, are written.

    Attributes:
        rows: the ``epochs`` rows so far, without keys.
        note: what the user should know of how it began; None where there is nothing.
    """

    @explained
    def __init__(self, job: Job, device: torch.device, *, keep: bool = True) -> None:
        self.job, self.device, self.keep = job, device, keep
        self.config = TrialConfig.from_mapping(job.config)
        self.dataset = load_dataset(
            self.config.dataset, job.data_dir, image_size=self.config.image_size
        )
        self.teacher = (
            load_teacher(
                job.results, job.teacher, str(device), self.dataset, job.teacher_fingerprint
            )
            if job.teacher
            else None
        )
        self.choice = choose_student(
            self.config.student,
            self.config.compression,
            self.config.amount,
            teacher_params=self.teacher.card.params if self.teacher else None,
            classes=self.dataset.num_classes,
            image_shape=self.dataset.image_shape,
        )
        self.training = self._untrained()
        self.training.check_teacher()  # before it teaches for hours
        self.rows: list[dict[str, Any]] = []
        self.note: str | None = None
        self.started_at = datetime.now(UTC)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        self._checkpointed = time.monotonic()
        if keep:
            self._go_on()

    def _untrained(self) -> Training:
        return Training(self.config, self.dataset, self.choice.name, self.teacher, self.device)

    def _go_on(self) -> None:
        """Continues from the trial's progress, if it has one that can be continued from."""
        folder = self.job.folder
        try:
            if folder.exists(PROGRESS):
                self.restore(folder.read(PROGRESS), self._facts["config_key"])
        except Exception as error:  # damaged bytes raise errors of any kind
            if isinstance(meaning(error), OutOfMemoryError | DeviceError):
                raise
            reason = str(error) if isinstance(error, UnusableProgress) else "cannot be restored"
            self.note = f"{folder}/{PROGRESS} {reason}: the training starts afresh"
            log.warning(self.note, exc_info=not isinstance(error, UnusableProgress))
            self.training, self.rows = self._untrained(), []  # nothing stays half restored

    @property
    def finished(self) -> bool:
        """Whether the last epoch is done."""
        return self.training.epoch >= self.config.epochs

    @explained
    def run_epoch(self) -> dict[str, Any]:
        """Trains one epoch; writes a checkpoint when it is time for one."""
        row = self.training.run_epoch()
        self.rows.append(row)
        due = time.monotonic() - self._checkpointed >= self.job.checkpoint_seconds
        if self.keep and due and not self.finished:
            self._checkpointed = time.monotonic()
            try:
                self.job.folder.write(PROGRESS, self.checkpoint())
            except OSError as error:  # the last one is still whole, the next may succeed
                log.warning("no checkpoint of %s: %s", self.job.trial_id, error)
        return row

    def checkpoint(self) -> bytes:
        """The whole state, as `restore` reads it."""
        state = {"training": self.training.state_dict(), "rows": self.rows}
        return pack_progress(state, self._facts["config_key"])

    def restore(self, data: bytes, key: str | None = None) -> None:
        """Continues from what `checkpoint` returned.

        Args:
            data: the bytes.
            key: refuses those of another config; None takes any.

        Raises:
            UnusableProgress: of another format or config, or damaged.
        """
        state = unpack_progress(data, key)
        self.training.load_state_dict(state["training"])
        self.rows = state["rows"]

    @explained
    def row(self, status: str, error: str | None = None) -> dict[str, Any]:
        """The trial's row of the ``trials`` table, as far as it is known.

        Args:
            status: ``completed``, ``stopped`` or ``failed``. Only for ``completed`` is the
                test set read, and are the student's weights written.
            error: one line, for ``failed``.
        """
        last = self.rows[-1] if self.rows else {}
        epochs = self.training.epoch
        seen = sum(row["images_per_second"] * row["seconds"] for row in self.rows)
        row = self._facts | {
            "status": status,
            "error": error,
            "epochs": epochs,
            "train_loss": last.get("train_loss"),
            "val_loss": last.get("val_loss"),
            "val_acc": last.get("val_acc"),
            "term_losses": json.dumps(last.get("term_losses", {})),
            "term_weights": json.dumps(self.training.method.weights),
            "train_seconds": self.training.train_seconds,
            "images_per_second": seen / self.training.train_seconds if self.rows else None,
            "precision": self.training.precision,
            "teacher_precision": self.training.teacher_precision,
            "teacher_cache_hit_rate": self.training.hit_rate,
            "peak_memory_bytes": _peak_memory(self.device),
            "started_at": self.started_at,
        }
        if status == "completed":
            scores = self.training.test()
            student = scores.pop("student")
            row |= {"test_acc": student.acc, "test_loss": student.loss}
            row |= self._peers(scores)
            row["latency_ms"] = latency_of(
                self.choice.name,
                self.dataset.num_classes,
                self.dataset.image_shape,
                str(self.device),
            )
            if self.keep:
                self._save_student(row)
        return row | {"ended_at": datetime.now(UTC)}

    def _peers(self, tested: Mapping[str, Score]) -> dict[str, Any]:
        """Columns of the networks that learned beside the student."""
        peers: list[dict[str, Any]] = []
        for name, score in tested.items():
            val = self.training.val_score(name)
            peers.append(
                {
                    "name": name,
                    "params": count_params(self.training.learner.networks[name]),
                    "val_acc": val.acc if val else None,
                    "test_acc": score.acc,
                }
            )
        if not peers:
            return {}
        return {
            "peers": json.dumps(peers),
            "peer_val_acc": _mean([peer["val_acc"] for peer in peers]),
            "peer_test_acc": _mean([peer["test_acc"] for peer in peers]),
        }

    def _save_student(self, row: dict[str, Any]) -> None:
        card = Card(
            name=self.job.trial_id,
            model=self.choice.name,
            dataset=self.config.dataset,
            data_fingerprint=self.dataset.fingerprint,
            classes=self.dataset.num_classes,
            class_names=self.dataset.classes,
            image_shape=self.dataset.image_shape,
            mean=self.dataset.mean,
            std=self.dataset.std,
            normalisation="dataset",
            test_acc=row["test_acc"],
            params=row["params"],
            macs=row["macs"],
            origin=self.config.to_json(),
        )
        while True:
            try:
                save_network(self.job.folder, STUDENT, self.training.student, card)
                return
            except OSError as error:  # a full disk, a bucket out of reach: what is done is kept
                log.warning("weights of %s wait to be written: %s", self.job.trial_id, error)
                time.sleep(RETRY_SECONDS)

    @functools.cached_property
    def _facts(self) -> dict[str, Any]:
        """Columns that are known before the first epoch."""
        student, shape = self.training.student, self.dataset.image_shape
        params, size = count_params(student), size_bytes(student)
        macs = macs_of(self.choice.name, self.dataset.num_classes, shape)
        facts = {
            "sweep": self.job.sweep,
            "trial_id": self.job.trial_id,
            "attempt": self.job.attempt,
            "config_key": config_key(
                self.config,
                student=self.choice.name,
                data_fingerprint=self.dataset.fingerprint,
                teacher_fingerprint=self.teacher.card.fingerprint if self.teacher else None,
            ),
            "stage": self.config.stage,
            "method": self.config.method,
            "dataset": self.config.dataset,
            "student": self.choice.name,
            "student_requested": self.config.student,
            "compression_kind": self.choice.kind,
            "compression_requested": self.choice.requested,
            "params": params,
            "macs": macs,
            "size_bytes": size,
            "seed": self.config.seed,
            "view_seed": self.config.view_seed,
            "host": platform.node(),
            "device": _device_name(self.device),
            "code_version": code_version(),
            "versions": json.dumps(versions()),
            "config": self.config.to_json(),
        }
        if self.teacher:
            card = self.teacher.card
            facts |= {
                "teacher": card.name,
                "teacher_note": remark(card, self.dataset),
                "teacher_test_acc": card.test_acc,
                "teacher_params": card.params,
                "teacher_macs": card.macs,
                "compression_params": card.params / params,
                "compression_macs": card.macs / macs,
                "compression_bytes": size_bytes(self.teacher.network) / size,
            }
        return facts


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _peak_memory(device: torch.device) -> int:
    """Bytes at the highest so far: allocated on the GPU, or resident in this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"

"""One attempt at one trial: a Training with its progress on disk."""

import logging
import time
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import torch

from trainables.cards import card_of_student
from trainables.columns import TrialRow
from trainables.compression.chain import Chain
from trainables.config import TrialConfig
from trainables.constraints import read_constraints
from trainables.data.sources import load_dataset
from trainables.errors import DeviceError, OutOfMemoryError
from trainables.experiment import asked, config_key
from trainables.explanations import Explained
from trainables.failures import explained, meaning
from trainables.files import Folder, open_folder
from trainables.measuring import Judge
from trainables.models.weights import save_network
from trainables.progress_file import UnusableProgress, pack_progress, unpack_progress
from trainables.rows import (
    add_test,
    add_training,
    contributions_of,
    epoch_row,
    peak_memory,
    teacher_costs,
    with_costs,
    with_facts,
)
from trainables.tasks.task import Score
from trainables.teachers.start import check_start, load_start
from trainables.teachers.teacher import Teacher, load_teacher
from trainables.training import Training
from trainables.trial_settings import SCRATCH
from trainables.worker import WORKER

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
        others: files of further teachers and the fingerprints of those that are meant, by role.
        start: name of the file, there as well, with whose weights the student begins; None: fresh.
        start_fingerprint: as for the teacher.
        attempt: 1 for the first.
        cpus, gpus: what the attempt asks of Ray.
        checkpoint_seconds: least time between two checkpoints; 0 for one after every epoch.
        constraints: of the study, as it gives them.
    """

    config: dict[str, Any]
    sweep: str
    trial_id: str
    results: str
    data_dir: str | None = None
    teacher: str | None = None
    teacher_fingerprint: str | None = None
    others: dict[str, tuple[str, str | None]] = field(default_factory=dict)
    start: str | None = None
    start_fingerprint: str | None = None
    attempt: int = 1
    cpus: float = 1.0
    gpus: float = 0.0
    checkpoint_seconds: float = 60.0
    constraints: dict[str, str] = field(default_factory=dict)

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
        rows: what `Training.run_epoch` said of the epochs so far.
        note: what the user should know of how it began; None where there is nothing.
    """

    @explained
    def __init__(self, job: Job, device: torch.device, *, keep: bool = True) -> None:
        self.job, self.device, self.keep = job, device, keep
        self.config = TrialConfig.from_mapping(job.config)
        self.dataset = load_dataset(
            self.config.dataset, job.data_dir, image_size=self.config.image_size
        )
        self.teacher = self._teacher(job.teacher, job.teacher_fingerprint) if job.teacher else None
        self.others = {role: self._teacher(*what) for role, what in job.others.items()}
        self.model = Chain(self.config.compression, self.config.chain).choose(
            self.config.student,
            teacher_params=self.teacher.card.params if self.teacher else None,
            classes=self.dataset.num_classes,
            image_shape=self.dataset.image_shape,
        )
        self.start = (
            load_start(job.results, job.start, self.dataset, job.start_fingerprint, self.model)
            if job.start
            else None
        )
        if self.start:
            check_start(self.config.start, self.model, self.start.card.blueprint)
        elif self.config.start != SCRATCH:
            raise ValueError(f"start {self.config.start}: the job has no file of it")
        bounds = read_constraints(job.constraints)
        self.judge = Judge(self.config, bounds, self.dataset.image_shape, device)
        self._teacher_costs = teacher_costs(self.teacher, self.dataset) if self.teacher else None
        self.training = self._untrained()
        self.training.check_teacher()  # before it teaches for hours
        self.rows: list[dict[str, Any]] = []
        self.note: str | None = self.start.note if self.start else None
        self.started_at = datetime.now(UTC)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        self._checkpointed = time.monotonic()
        self._key = config_key(
            self.config,
            student=self.model,
            data_fingerprint=self.dataset.fingerprint,
            teacher_fingerprint=self.teacher.card.fingerprint if self.teacher else None,
            start_fingerprint=self.start.card.fingerprint if self.start else None,
            others={role: teacher.card.fingerprint for role, teacher in self.others.items()},
        )
        row = asked(self.config, job.sweep, job.trial_id, job.attempt, self._key)
        self._facts = with_facts(row, self.dataset, self.teacher, device, self.start, self.others)
        log.debug("this process keeps %s", WORKER)
        if keep:
            self._go_on()

    def _teacher(self, name: str, fingerprint: str | None) -> Teacher:
        return load_teacher(self.job.results, name, str(self.device), self.dataset, fingerprint)

    def _untrained(self) -> Training:
        steps = Chain(self.config.compression, self.config.chain).steps
        networks = self.model, self.teacher
        return Training(
            *(self.config, self.dataset, *networks, self.device, steps, self.start),
            others=self.others,
        )

    def _go_on(self) -> None:
        """Continues from the trial's progress, if it has one that can be continued from."""
        folder = self.job.folder
        try:
            if folder.exists(PROGRESS):
                self.restore(folder.read(PROGRESS), self._key)
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
    def refusal(self) -> str | None:
        """Why the student is not to be trained, in words: the constraints that its costs violate
        already; None where it is to be. Before the first epoch, it takes the steps before it."""
        if not self.judge.early or self.training.epoch:
            return None
        self.training.begin()
        row = with_costs(self._facts, self.training.student, self.dataset, self.teacher)
        return self._refused(row)

    def _refused(self, row: TrialRow) -> str | None:
        learner = self.training.learner
        return self.judge.before(row, learner.student, learner.steps)

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
        return pack_progress(state, self._key)

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
            status: ``completed``, ``stopped``, ``failed`` or ``infeasible``. Only for
                ``completed`` is the test set read, and are the student's weights written.
            error: one line, for ``failed`` and ``infeasible``.
        """
        row = replace(
            with_costs(self._facts, self.training.student, self.dataset, self.teacher),
            status=status,
            error=error,
            peak_memory_bytes=peak_memory(self.device),
            started_at=self.started_at,
            contributions=contributions_of(self.training.learner, self._teacher_costs),
        )
        add_training(row, self.training, self.rows)
        if status == "infeasible":
            self._refused(row)
        if status == "completed":
            student = add_test(row, self.training, self.rows)
            shown, learner = self.training.stream.val_indices, self.training.learner
            explaining = Explained(self.config, self.dataset, self.teacher, self.device)
            explaining.fill_in(row, learner.student, learner.normalisation, shown)
            self.judge.behind(row, self.training.student)
            if self.keep:
                self._keep_student(student)
        row.ended_at = datetime.now(UTC)
        return row.known()

    def epoch_rows(self, first: int) -> list[dict[str, Any]]:
        """Rows of the ``epochs`` table, without those before the epoch of this index."""
        return [
            epoch_row(self.job.sweep, self.job.trial_id, self.job.attempt, epoch)
            for epoch in self.rows[first:]
        ]

    def _keep_student(self, tested: Score) -> None:
        card = card_of_student(self.training, self.job.trial_id, tested, self.start)
        while True:
            try:
                save_network(self.job.folder, STUDENT, self.training.student, card)
                return
            except OSError as error:  # a full disk, a bucket out of reach: what is done is kept
                log.warning("weights of %s wait to be written: %s", self.job.trial_id, error)
                time.sleep(RETRY_SECONDS)

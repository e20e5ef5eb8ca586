"""The first stage of a sweep: its teachers, trained on Ray where there are none yet."""

import time
from dataclasses import dataclass, field
from typing import Any

from filelock import FileLock, Timeout

from orchestrator.sweeps import cluster
from orchestrator.sweeps.deaths import how_it_died
from orchestrator.sweeps.map_stage import check_maps
from orchestrator.sweeps.plan import Plan
from orchestrator.sweeps.progress import Pace, Progress
from orchestrator.sweeps.surroundings import thread_counts
from trainables.errors import DeviceError, OutOfMemoryError, TrainingFailed, UserError
from trainables.failures import meaning
from trainables.recipes import Recipe
from trainables.tasks.metrics import percent
from trainables.teacher_training import teacher_lock, waiting_for
from trainables.teachers.teacher import find_teacher

MAX_ATTEMPTS = 3
POLL_SECONDS = 0.5


def with_teachers(plan: Plan, progress: Progress) -> Plan:
    """The plan with its teachers, trained on Ray now where there are none yet.

    Raises:
        UserError, TrainingFailed: one cannot be trained, or there is no room for the maps that
            trials read of them.
    """
    plan = plan.with_teachers()
    check_maps(plan)
    missing = plan.missing()
    return _trained(plan, progress, missing) if missing else plan


def _trained(plan: Plan, progress: Progress, missing: list[Recipe]) -> Plan:
    stage = _Stage(plan, progress, missing)
    try:
        stage.run()
    finally:
        stage.close()
    plan = plan.with_teachers()
    for recipe in missing:
        card = plan.cards[recipe.key]
        progress.stage(f"teacher {card.name}: test {card.tested}")
    return plan


@dataclass
class _Lesson:
    """A teacher under training.

    Attributes:
        lock: what keeps other processes from training it.
        gpus: what its actor asks of Ray.
        worker: the actor that trains it.
        asked: the call that the actor answers next.
        last: whether that one files the teacher.
        attempts: actors so far.
        pace: how fast it is.
    """

    recipe: Recipe
    lock: FileLock | None
    gpus: float
    worker: Any = None
    asked: Any = None
    last: bool = False
    attempts: int = 0
    pace: Pace = field(default_factory=Pace)


class _Stage:
    """Trains teachers, those first whose own teacher is there; as many at once as have room.

    One alone has a node's CPUs; several have one each. A teacher that another process of the
    results folder trains is waited for.
    """

    def __init__(self, plan: Plan, progress: Progress, missing: list[Recipe]) -> None:
        self._plan, self._progress = plan, progress
        self._waiting = list(missing)
        self._lessons: list[_Lesson] = []
        self._elsewhere: set[str] = set()

    def run(self) -> None:
        """Returns when all are there.

        Raises:
            UserError, TrainingFailed: one cannot be trained.
        """
        import ray

        while self._waiting or self._lessons:
            self._start_ready()
            if not self._lessons:
                time.sleep(POLL_SECONDS)  # another sweep trains what is missing
                continue
            by_call = {lesson.asked: lesson for lesson in self._lessons}
            # Not for ever: what waits for another sweep is looked after, too.
            for call in ray.wait(list(by_call), timeout=POLL_SECONDS)[0]:
                self._advance(by_call[call])

    def close(self) -> None:
        """Ends what still runs; it goes on from its checkpoint the next time."""
        for lesson in list(self._lessons):
            self._end(lesson)

    def _start_ready(self) -> None:
        ready = [recipe for recipe in self._waiting if self._is_ready(recipe)]
        alone = len(ready) == 1 and not self._lessons
        for recipe in ready:
            if len(self._lessons) >= cluster.slots(1, self._plan.gpus):
                return
            lock = teacher_lock(self._plan.results, recipe)
            try:
                if lock is not None:
                    lock.acquire(timeout=0)
            except Timeout:
                if recipe.key not in self._elsewhere:
                    self._elsewhere.add(recipe.key)
                    self._progress.stage(waiting_for(recipe))
                continue
            self._waiting.remove(recipe)
            lesson = _Lesson(recipe, lock, self._plan.gpus)
            self._lessons.append(lesson)
            if find_teacher(self._plan.results, recipe.key) is None:
                self._start(lesson, alone)
            else:
                self._end(lesson)

    def _is_ready(self, recipe: Recipe) -> bool:
        upper = recipe.upper
        return upper is None or find_teacher(self._plan.results, upper.file) is not None

    def _start(self, lesson: _Lesson, alone: bool) -> None:
        """Trains a teacher in an actor of its own, or goes on from its checkpoint."""
        import ray
        import torch

        from trainables.teacher_training import TeacherTraining

        plan = self._plan
        lesson.attempts += 1
        self._progress.stage(f"training the teacher {lesson.recipe.name}")
        device = torch.device("cuda" if plan.gpus else "cpu")
        cpus = max(1, int(cluster.largest_node("CPU"))) if alone and not plan.gpus else 1
        room = ray.remote(
            num_cpus=cpus, num_gpus=lesson.gpus, runtime_env={"env_vars": thread_counts(cpus)}
        )
        lesson.worker = room(TeacherTraining).remote(
            lesson.recipe, plan.results, plan.data_dir, device
        )
        lesson.asked, lesson.last = lesson.worker.run_epoch.remote(), False

    def _advance(self, lesson: _Lesson) -> None:
        """Takes an answer of a teacher's actor, and asks for the next."""
        import ray

        name = lesson.recipe.name
        try:
            row = ray.get(lesson.asked)
        except ray.exceptions.RayTaskError as error:
            meant = meaning(error.cause)
            if isinstance(meant, DeviceError):
                self._again(lesson, str(meant), error)
                return
            if isinstance(meant, OutOfMemoryError) and lesson.gpus < min(1.0, 2 * self._plan.gpus):
                lesson.gpus = min(1.0, 2 * self._plan.gpus)
                self._again(lesson, str(meant), error)
                return
            if isinstance(meant, TrainingFailed | UserError):
                raise meant from error
            raise
        except ray.exceptions.RayError as error:
            if how := how_it_died(error):
                self._again(lesson, f"teacher {name}: {how}", error)
                return
            raise
        if lesson.last:
            self._end(lesson)
            return
        if row is not None and row["note"]:
            self._progress.noted(f"teacher {name}", row["note"])
        if row is None:
            lesson.asked, lesson.last = lesson.worker.finish.remote(), True
        else:
            val = row["val_score"]
            shown = f", val {percent(val, row['metric'])}" if val is not None else ""
            epoch, epochs = row["epoch"], lesson.recipe.config.epochs
            shown += lesson.pace.left(epoch / epochs)
            self._progress.stage(f"teacher {name}: epoch {epoch}/{epochs}{shown}", passing=True)
            lesson.asked = lesson.worker.run_epoch.remote()

    def _again(self, lesson: _Lesson, why: str, error: Exception) -> None:
        """Another actor, unless too many have ended already."""
        import ray

        if lesson.attempts == MAX_ATTEMPTS:
            raise TrainingFailed(f"{why}; tried {MAX_ATTEMPTS} times") from error
        self._progress.stage(f"{why}; trying again")
        ray.kill(lesson.worker)
        self._start(lesson, alone=len(self._lessons) == 1)

    def _end(self, lesson: _Lesson) -> None:
        import ray

        self._lessons.remove(lesson)
        if lesson.worker is not None:
            ray.kill(lesson.worker)
        if lesson.lock is not None:
            lesson.lock.release()

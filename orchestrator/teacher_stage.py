"""The first stage of a sweep: its teacher, trained on Ray where there is none yet."""

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock

from orchestrator import cluster
from orchestrator.plan import Plan
from orchestrator.progress import Progress
from trainables.errors import UserError
from trainables.teachers.teacher import teacher_folder
from trainables.teachers.train import Recipe

MAX_ATTEMPTS = 3


def with_teacher(plan: Plan, progress: Progress) -> Plan:
    """The plan with its teacher, trained on Ray now if there is none yet.

    Raises:
        UserError: it cannot be trained.
    """
    plan = plan.with_teacher()
    recipe = plan.recipe
    if plan.teacher is not None or recipe is None:
        return plan
    import ray

    with _lock(plan):
        plan = plan.with_teacher()
        for _ in range(MAX_ATTEMPTS):
            if plan.teacher is not None:
                break
            progress.stage(f"training the teacher {recipe.name}")
            with contextlib.suppress(ray.exceptions.ActorDiedError):
                _train(plan, recipe, progress)
            plan = plan.with_teacher()
    if plan.teacher is None:
        raise UserError(
            f"teacher {recipe.name}: its worker died {MAX_ATTEMPTS} times; "
            "see Ray's logs of its node"
        )
    progress.stage(f"teacher {plan.teacher.name}: test {100 * plan.teacher.test_acc:.2f} %")
    return plan


def _train(plan: Plan, recipe: Recipe, progress: Progress) -> None:
    """Trains the teacher in an actor, or goes on from its checkpoint."""
    import ray
    import torch

    from trainables.teachers.train import TeacherTraining
    from trainables.training import Diverged

    device = torch.device("cuda" if plan.gpus else "cpu")
    cpus = 1 if plan.gpus else max(1, int(cluster.largest_node("CPU")))
    worker: Any = ray.remote(num_cpus=cpus, num_gpus=plan.gpus)(TeacherTraining).remote(
        recipe, plan.results, plan.data_dir, device
    )
    try:
        while (row := ray.get(worker.run_epoch.remote())) is not None:
            val = row["val_acc"]
            shown = f", val {100 * val:.2f} %" if val is not None else ""
            progress.stage(
                f"teacher {recipe.name}: epoch {row['epoch']}/{recipe.config.epochs}{shown}",
                passing=True,
            )
        ray.get(worker.finish.remote())
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, Diverged | UserError):
            raise UserError(f"teacher {recipe.name}: {error.cause}") from error
        raise
    finally:
        ray.kill(worker)


@contextmanager
def _lock(plan: Plan) -> Iterator[None]:
    """One training per teacher, however many sweeps of a results folder wait for it."""
    folder = teacher_folder(plan.results)
    if not folder.is_local:
        yield
        return
    Path(folder.path).mkdir(parents=True, exist_ok=True)
    with FileLock(Path(folder.path) / f".{plan.teacher_file}.lock"):
        yield

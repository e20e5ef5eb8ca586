"""Ray Tune, as a sweep uses it."""

import logging
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ray import tune
from ray.air.execution._internal import RayActorManager
from ray.exceptions import OutOfMemoryError, RayActorError

from orchestrator.results.store import Store
from orchestrator.sweeps.searcher import Starts, StudySearcher
from trainables.trainable import DistillTrainable

log = logging.getLogger(__name__)

LOOK_SECONDS = 15.0
PROBE = ".probe"
PROBE_BYTES = 1 << 16


class Checks(tune.Callback):
    """Looks around between two of Tune's steps."""

    def __init__(self, check: Callable[[], None]) -> None:
        self._check = check

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its callbacks at the start, for a restore that we do otherwise.
        return {}

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        self._check()


class Room:
    """Says when results cannot be written: workers that wait for the disk do so in silence.

    Args:
        store: of the sweep; says itself what happens to its own rows.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._looked = time.monotonic()
        self._full = False

    def look(self) -> None:
        """Tries now and then to write a little. An object store has no disk that could be full."""
        if not self._store.folder.is_local or time.monotonic() - self._looked < LOOK_SECONDS:
            return
        self._looked = time.monotonic()
        folder, full = self._store.folder, False
        try:
            folder.write(PROBE, bytes(PROBE_BYTES))
            folder.delete(PROBE)
        except OSError as error:
            full = True
            if not self._full and not self._store.pending:
                log.error("%s cannot be written (%s); trials wait, nothing is lost", folder, error)
        if self._full and not full:
            log.warning("%s can be written again", folder)
        self._full = full


@contextmanager
def surviving_workers_without_memory() -> Iterator[None]:
    """Has Tune go on where Ray ends a worker because its machine's memory ran out, whoever took it.

    Tune's manager of actors knows those that died, and takes every other error of Ray's for a fault
    that ends all trials. A worker that was ended is dead: its trial is tried again.
    """
    failed = RayActorManager._actor_task_failed

    def as_dead(manager: RayActorManager, tracked_actor_task: Any, exception: Exception) -> None:
        if isinstance(exception, OutOfMemoryError):
            log.debug("a worker was ended", exc_info=exception)
            exception = RayActorError(error_msg="its machine's memory ran out")
        failed(manager, tracked_actor_task, exception)

    RayActorManager._actor_task_failed = as_dead
    try:
        yield
    finally:
        RayActorManager._actor_task_failed = failed


def tune_trials(
    searcher: StudySearcher,
    sweep: str,
    *,
    at_once: int,
    reuse_actors: bool,
    check: Callable[[], None],
) -> None:
    """Runs what a searcher suggests until it has nothing left.

    Args:
        searcher: hands out trials and books them.
        sweep: its name.
        at_once: the most trials at once.
        reuse_actors: whether a worker goes on with the next trial.
        check: called all the time; raises where a signal should have ended the sweep, but its
            exception got lost in Tune.
    """
    room = Room(searcher.book.store)

    def look() -> None:
        check()
        room.look()

    for name in ("ray.tune", "ray.train"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    # Of what Tune itself writes nothing is read again.
    scratched = tempfile.TemporaryDirectory(prefix="kdsweep-")
    with surviving_workers_without_memory(), scratched as scratch:
        tune.Tuner(
            DistillTrainable,
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                num_samples=-1,
                max_concurrent_trials=at_once,
                reuse_actors=reuse_actors,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(
                name=sweep,
                storage_path=scratch,
                # Trials keep their progress themselves, beside the results.
                checkpoint_config=tune.CheckpointConfig(
                    checkpoint_frequency=0, checkpoint_at_end=False
                ),
                callbacks=[Starts(searcher), Checks(look)],
                verbose=0,
            ),
        ).fit()

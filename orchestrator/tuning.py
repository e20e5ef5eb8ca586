"""Ray Tune, as a sweep uses it."""

import logging
import tempfile
from collections.abc import Callable
from typing import Any

from ray import tune

from orchestrator.searcher import Starts, StudySearcher
from trainables.trainable import DistillTrainable


class Checks(tune.Callback):
    """Ends what a signal should have ended, if its exception got lost in Tune."""

    def __init__(self, check: Callable[[], None]) -> None:
        self._check = check

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its callbacks at the start, for a restore that we do otherwise.
        return {}

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        self._check()


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
        check: called now and then; raises where the sweep is to end.
    """
    for name in ("ray.tune", "ray.train"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    # Of what Tune itself writes nothing is read again.
    with tempfile.TemporaryDirectory(prefix="kdsweep-") as scratch:
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
                callbacks=[Starts(searcher), Checks(check)],
                verbose=0,
            ),
        ).fit()

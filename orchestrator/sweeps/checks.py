"""Mistakes of a study that show before its data are read, which may take minutes."""

import logging
from collections.abc import Callable

from orchestrator.sweeps.explaining import check_masks
from orchestrator.sweeps.plan import Plan, naming
from orchestrator.sweeps.validation import check_validation
from search_spaces.spec import Study
from trainables.compression.chain import Chain
from trainables.compression.rounds import crowded
from trainables.data.dataset import Dataset
from trainables.errors import UserError
from trainables.objectives import OBJECTIVES, check_objective, metric_of
from trainables.runtimes.registry import RUNTIMES
from trainables.tasks.metrics import ACC, Metric

log = logging.getLogger(__name__)

_WARMUP = ".warmup"


def check_search(study: Study, dataset: Callable[[], Dataset]) -> None:
    """What a search needs beside its trials: a budget, and images that its trials are judged by,
    with masks where localisation is.

    Args:
        study: what is tried.
        dataset: gives its data; asked last, since reading them may take minutes.

    Raises:
        UserError: one of them is missing, by its key.
    """
    if study.asks_sampler and study.trials is None:
        raise UserError(
            "trials: expected how many configs to train, as in `trials: 100` or --trials 100; "
            "`sampler: grid` trains all there are"
        )
    deciding = [
        key for key, name in study.judged.items() if "validation" in check_objective(name).needs
    ]
    check_validation(study, dataset, next(iter(deciding), None))
    if any("masks" in check_objective(name).needs for name in study.judged.values()):
        check_masks(study, dataset())


def scored_by(metric: Metric, study: Study) -> Study:
    """A study for data by whose task is selected by a metric.

    Where the study does not say what it optimises, that metric stands in the accuracy's place.

    Raises:
        UserError: an objective or a constraint is of another metric.
    """
    own = f"val_{metric.name}" if f"val_{metric.name}" in OBJECTIVES else "val_score"
    if metric != ACC and "objectives" not in study.model_fields_set:
        others = {key: goal for key, goal in study.objectives.items() if key != "val_acc"}
        return study.model_copy(update={"objectives": {own: metric.better, **others}})
    for key, name in study.judged.items():
        if metric_of(name) not in (None, metric.name):
            raise UserError(
                f"{key}: trials of '{study.dataset}' have none; they have {own} "
                "(val_score is the same) and val_loss"
            )
    return study


def check_names(plan: Plan) -> None:
    """Whether every compression can bring about its student, as far as names tell, and every
    runtime can run here.

    A weight that warms up for longer than a whole training is no mistake, nor are rounds of a step
    that fall on one epoch; it is said.

    Raises:
        UserError: a student that there is not, or that cannot be made small in this way; a
            runtime for which this machine lacks something.
    """
    asked: set[object] = set()
    said: set[object] = set()
    for pair, config in plan.corners():
        for name in config.runtimes:
            if name not in asked and (why := RUNTIMES[name]().unavailable()):
                raise UserError(f"latencies: runtime '{name}' cannot run here: {why}")
            asked.add(name)
        request = (pair, config.student, config.compression, *config.chain.values())
        if request not in asked:
            asked.add(request)
            with naming(pair):
                Chain(config.compression, config.chain).named(config.student)
        for step in Chain(config.compression, config.chain).steps:
            lost = crowded(step.moments, config.epochs)
            if lost is not None and (step.name, lost) not in said:
                said.add((step.name, lost))
                log.warning("%s.rounds: %s", step.name, lost)
        for key, epochs in config.terms.items():
            fraction = f"{key}_fraction"
            if not key.endswith(_WARMUP) or config.terms.get(fraction) is not None:
                continue
            if isinstance(epochs, float) and epochs >= config.epochs and key not in said:
                said.add(key)
                log.warning(
                    "%s: %g epochs, and the training has %d: the weight never is what it should "
                    "be; %s: 0.08 makes it a share of the training",
                    *(key, epochs, config.epochs, fraction),
                )

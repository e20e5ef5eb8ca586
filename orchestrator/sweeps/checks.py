"""Mistakes of a study that show before its data are read, which may take minutes."""

import logging
from collections.abc import Callable

from orchestrator.sweeps.plan import Plan, naming
from orchestrator.sweeps.validation import check_validation
from search_spaces.spec import Study
from trainables.columns import TRIALS
from trainables.compression.chain import Chain
from trainables.data.dataset import Dataset

log = logging.getLogger(__name__)

_WARMUP = ".warmup"


def check_search(study: Study, dataset: Callable[[], Dataset]) -> None:
    """What a search needs beside its trials: a budget, and images that its objectives are of.

    Args:
        study: what is tried.
        dataset: gives its data; asked last, since reading them may take minutes.

    Raises:
        UserError: one of them is missing, by its key.
    """
    study.check_budget()
    columns = (TRIALS[key] for key in study.objectives)
    deciding = [f"objectives.{c.name}" for c in columns if "validation" in c.needs]
    check_validation(study, dataset, next(iter(deciding), None))


def check_names(plan: Plan) -> None:
    """Whether every compression can bring about its student, as far as names tell.

    A weight that warms up for longer than a whole training is no mistake; it is said.

    Raises:
        UserError: a student that there is not, or that cannot be made small in this way.
    """
    asked, said = set(), set()
    for pair, config in plan.corners():
        request = (pair, config.student, config.compression, *config.chain.values())
        if request not in asked:
            asked.add(request)
            with naming(pair):
                Chain(config.compression, config.chain).named(config.student)
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

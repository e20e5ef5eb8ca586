"""Which configs are trained again, and how: the confirm stage."""

import json
import logging

from orchestrator.results import views
from orchestrator.results.bounds import bounds_of, left_out
from orchestrator.results.front import front, nothing_finished, objectives_of, signs
from search_spaces.spec import MAX_REPEATS
from trainables.config import TrialConfig
from trainables.errors import UserError
from trainables.methods.registry import OTHERS
from trainables.tasks.metrics import headline

log = logging.getLogger(__name__)

FIRST_SEED = 1000


def choose(sweep: str, results: str, seeds: int, top: int | None = None) -> list[list[TrialConfig]]:
    """The configs on the front of a sweep's search, and the plain student at each compression.

    They are trained on the whole training set: nothing is chosen after this, so no image needs
    to be held out. Seeds begin at 1000, so that none is one of the search.

    Args:
        sweep, results: whose search.
        seeds: how often each config is trained.
        top: only this many of the front, those that are best on validation.

    Returns:
        A list of repeats per config.

    Raises:
        UserError: the sweep has no finished trial, or none that was validated.
    """
    if not 1 <= seeds <= MAX_REPEATS:
        raise UserError(f"--seeds: expected at least 1, at most {MAX_REPEATS}, got {seeds}")
    if top is not None and top < 1:
        raise UserError(f"--top: expected at least 1, got {top}")
    frame = views.trials(results, [sweep])
    objectives = objectives_of(results, [sweep])
    chosen = front(frame, objectives, bounds_of(results, [sweep]))
    without = left_out(chosen.attrs["violating"])
    if chosen.empty:
        raise nothing_finished(frame, list(objectives), without)
    if without:
        log.warning("%s of what is confirmed", without)
    if chosen["val_score"].isna().all():
        own = headline(chosen["metric"].iloc[0]).name
        raise UserError(
            f"sweep '{sweep}' has no val_{own} (val_fraction: 0), by which something could be "
            "chosen; its trials learned from all training images: for more seeds give its study "
            "more `repeats`"
        )
    if top is not None:
        merit = signs(chosen) * chosen["val_score"]
        chosen = chosen.assign(merit=merit).nlargest(top, "merit")
    configs = [TrialConfig.from_mapping(json.loads(text)) for text in chosen["config"]]
    plain = [_plain(config) for config in configs]
    distinct = {config.to_json(): config for config in [*configs, *plain]}
    return [[_confirming(config, k) for k in range(seeds)] for config in distinct.values()]


def _plain(config: TrialConfig) -> TrialConfig:
    """The same student without distillation: what the difference in a table is taken to."""
    taught = {*config.terms, *(f"{OTHERS}{role}" for role in config.teachers)}
    values = {key: value for key, value in config.to_dict().items() if key not in taught}
    return TrialConfig.from_mapping({**values, "method": "student"})


def _confirming(config: TrialConfig, repeat: int) -> TrialConfig:
    seed = FIRST_SEED + repeat
    return config.replace(stage="confirm", val_fraction=0.0, seed=seed, view_seed=seed)

"""Which configs are trained again, and how: the confirm stage."""

import json

from orchestrator.results import views
from orchestrator.results.front import front, nothing_finished, objectives_of
from search_spaces.spec import MAX_REPEATS
from trainables.config import TrialConfig
from trainables.errors import UserError

FIRST_SEED = 1000


def choose(sweep: str, results: str, seeds: int, top: int | None = None) -> list[list[TrialConfig]]:
    """The configs on the front of a sweep's search, and the plain student at each compression.

    They are trained on the whole training set: nothing is chosen after this, so no image needs
    to be held out. Seeds begin at 1000, so that none is one of the search.

    Args:
        sweep, results: whose search.
        seeds: how often each config is trained.
        top: only this many of the front, by validation accuracy.

    Returns:
        A list of repeats per config.

    Raises:
        UserError: the sweep has no finished trial, or none with a validation accuracy.
    """
    if not 1 <= seeds <= MAX_REPEATS:
        raise UserError(f"--seeds: expected at least 1, at most {MAX_REPEATS}, got {seeds}")
    if top is not None and top < 1:
        raise UserError(f"--top: expected at least 1, got {top}")
    frame = views.trials(results, [sweep])
    objectives = objectives_of(results, [sweep])
    chosen = front(frame, objectives)
    if chosen.empty:
        raise nothing_finished(frame, list(objectives))
    if chosen["val_acc"].isna().all():
        raise UserError(
            f"sweep '{sweep}' has no val_acc (val_fraction: 0), by which something could be "
            "chosen; its trials learned from all training images: for more seeds give its study "
            "more `repeats`"
        )
    if top is not None:
        chosen = chosen.nlargest(top, "val_acc")
    configs = [TrialConfig.from_mapping(json.loads(text)) for text in chosen["config"]]
    plain = [_plain(config) for config in configs]
    distinct = {config.to_json(): config for config in [*configs, *plain]}
    return [[_confirming(config, k) for k in range(seeds)] for config in distinct.values()]


def _plain(config: TrialConfig) -> TrialConfig:
    """The same student without distillation: what the difference in a table is taken to."""
    values = {key: value for key, value in config.to_dict().items() if key not in config.terms}
    return TrialConfig.from_mapping({**values, "method": "student"})


def _confirming(config: TrialConfig, repeat: int) -> TrialConfig:
    seed = FIRST_SEED + repeat
    return config.replace(stage="confirm", val_fraction=0.0, seed=seed, view_seed=seed)

"""What chooses values: Optuna's samplers, and those of other packages."""

from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from search_spaces.dimension import Dimension
from search_spaces.spec import LISTS, SAMPLERS, Study
from trainables.config import MAX_SEED


def make_sampler(study: Study, known: int) -> BaseSampler:
    """The sampler of a study.

    Args:
        study: names it.
        known: trials that it has had: a resumed run goes on with other random numbers than it
            began with.

    Raises:
        UserError: the package that offers it cannot be loaded.
    """
    seed = (study.sampler_seed + known) % (MAX_SEED + 1)
    make = RandomSampler if study.sampler in LISTS else SAMPLERS[study.sampler]
    sampler = make(seed=seed)
    stepped = {key: found for key, found in study.space.items() if found.step is not None}
    return _Rounded(sampler, stepped) if stepped else sampler


def tpe(seed: int) -> BaseSampler:
    """TPE that knows of trials under way."""
    return TPESampler(seed=seed, constant_liar=True)


class _Rounded(BaseSampler):
    """A sampler whose values of ranges with steps are as one writes them: 0.3, not 3 * 0.1.

    Args:
        sampler: chooses.
        stepped: the dimensions with steps, by key.
    """

    def __init__(self, sampler: BaseSampler, stepped: Mapping[str, Dimension]) -> None:
        self._sampler, self._stepped = sampler, stepped

    def _round(self, key: str, value: Any) -> Any:
        return self._stepped[key].rounded(value) if key in self._stepped else value

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return self._sampler.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        values = self._sampler.sample_relative(study, trial, search_space)
        return {key: self._round(key, value) for key, value in values.items()}

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        value = self._sampler.sample_independent(study, trial, param_name, param_distribution)
        return self._round(param_name, value)

    def reseed_rng(self) -> None:
        self._sampler.reseed_rng()

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        self._sampler.before_trial(study, trial)

    def after_trial(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        self._sampler.after_trial(study, trial, state, values)

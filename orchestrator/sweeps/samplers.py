"""What chooses values: Optuna's samplers, and those of other packages."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from search_spaces.dimension import Dimension
from search_spaces.spec import LISTS, SAMPLERS, Study
from trainables.trial_settings import MAX_SEED

OURS = ("tpe", "nsga2", "random", *LISTS)
"""Samplers that keep nothing of one trial for the next but random numbers."""


def make_sampler(study: Study, known: int) -> BaseSampler:
    """The sampler of a study.

    What one of `OURS` draws follows from the seed, the number of the trial and what was told
    before, so that a sweep that was killed goes on as it would have without. One of another
    package goes on with other random numbers than it began with.

    Args:
        study: names it.
        known: trials that it has had.

    Raises:
        UserError: the package that offers it cannot be loaded.
    """
    make = RandomSampler if study.sampler in LISTS else SAMPLERS[study.sampler]

    def of_trial(number: int) -> BaseSampler:
        digest = hashlib.sha256(f"{study.sampler_seed} {number}".encode()).digest()
        return make(seed=int.from_bytes(digest[:4]))  # near seeds have nothing in common

    if study.sampler in OURS:
        sampler: BaseSampler = _Numbered(of_trial)
    else:
        sampler = make(seed=(study.sampler_seed + known) % (MAX_SEED + 1))
    stepped = {key: found for key, found in study.space.items() if found.step is not None}
    return _Rounded(sampler, stepped) if stepped else sampler


def tpe(seed: int) -> BaseSampler:
    """TPE that knows of trials under way."""
    return TPESampler(seed=seed, constant_liar=True)


class _Another(BaseSampler):
    """Asks another sampler for everything."""

    def of(self, trial: FrozenTrial) -> BaseSampler:
        """The sampler that is asked for a trial."""
        raise NotImplementedError

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return self.of(trial).infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self.of(trial).sample_relative(study, trial, search_space)

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        sampler = self.of(trial)
        return sampler.sample_independent(study, trial, param_name, param_distribution)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        self.of(trial).before_trial(study, trial)

    def after_trial(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        self.of(trial).after_trial(study, trial, state, values)


class _Numbered(_Another):
    """A sampler that is made anew for every trial.

    Args:
        make: makes it, of the number of the trial.
    """

    def __init__(self, make: Callable[[int], BaseSampler]) -> None:
        self._make = make
        self._number, self._sampler = 0, make(0)

    def of(self, trial: FrozenTrial) -> BaseSampler:
        if trial.number != self._number:
            self._number, self._sampler = trial.number, self._make(trial.number)
        return self._sampler


class _Rounded(_Another):
    """A sampler whose values of ranges with steps are as one writes them: 0.3, not 3 * 0.1.

    Args:
        sampler: chooses.
        stepped: the dimensions with steps, by key.
    """

    def __init__(self, sampler: BaseSampler, stepped: Mapping[str, Dimension]) -> None:
        self._sampler, self._stepped = sampler, stepped

    def of(self, trial: FrozenTrial) -> BaseSampler:
        return self._sampler

    def _round(self, key: str, value: Any) -> Any:
        return self._stepped[key].rounded(value) if key in self._stepped else value

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        values = super().sample_relative(study, trial, search_space)
        return {key: self._round(key, value) for key, value in values.items()}

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        value = super().sample_independent(study, trial, param_name, param_distribution)
        return self._round(param_name, value)

    def reseed_rng(self) -> None:
        self._sampler.reseed_rng()

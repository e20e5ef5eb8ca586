"""Where configs come from: Optuna's ask and tell, or a list."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from orchestrator.journal import Journal
from orchestrator.samplers import make_sampler
from search_spaces.dimension import Dimension, Value, setting_of
from search_spaces.spec import Study
from trainables.config import TrialConfig

_DIRECTIONS = {"max": StudyDirection.MAXIMIZE, "min": StudyDirection.MINIMIZE}


@dataclass(frozen=True)
class Proposal:
    """A config to train, once per repeat.

    Attributes:
        number: counts the proposals of a source from 0.
        configs: one per repeat, alike but for their seeds.
    """

    number: int
    configs: tuple[TrialConfig, ...]


class Source(Protocol):
    """Gives configs and is told how they did.

    Attributes:
        total: trials that it will have given in the end, as far as it knows now.
        replaces: whether a further proposal follows one that earlier results answer.
    """

    total: int
    replaces: bool

    def unfinished(self) -> list[Proposal]:
        """Proposals of an interrupted run that were never told."""

    def ask(self) -> Proposal | None:
        """The next proposal; None where there is none left."""

    def tell(self, number: int, rows: Sequence[Mapping[str, Any]], *, answered: bool) -> None:
        """How a proposal did: its ``trials`` rows, one per repeat.

        Args:
            number: the proposal's.
            rows: any that is not ``completed`` decides for all.
            answered: whether the rows are those of earlier, equal trials.
        """

    def keep(self) -> None:
        """Brings what was told to where the results are, if it is not there already."""


class ListSource:
    """Given configs, in order."""

    def __init__(self, groups: Sequence[Sequence[TrialConfig]]) -> None:
        self._proposals = [Proposal(i, tuple(group)) for i, group in enumerate(groups)]
        self._next = 0
        self.total = sum(len(group) for group in groups)
        self.replaces = False

    def unfinished(self) -> list[Proposal]:
        return []

    def ask(self) -> Proposal | None:
        if self._next == len(self._proposals):
            return None
        self._next += 1
        return self._proposals[self._next - 1]

    def tell(self, number: int, rows: Sequence[Mapping[str, Any]], *, answered: bool) -> None:
        pass

    def keep(self) -> None:
        pass


class OptunaSource:
    """A study's space under an Optuna sampler, kept in a journal file beside the results.

    ``optuna-dashboard PATH`` opens the journal. Budget: the study's ``trials``, counting
    configs that were trained; a config equal to an earlier one costs nothing. The search ends
    early where `PATIENCE` proposals in a row bring nothing new: the space is exhausted.

    Args:
        study: what to try.
        journal: of the sweep.
        sweep: name of the Optuna study.
    """

    PATIENCE = 100

    def __init__(self, study: Study, journal: Journal, sweep: str) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.study = study
        self._journal = journal
        self.optuna = optuna.create_study(
            study_name=sweep,
            storage=journal.storage(),
            directions=[_DIRECTIONS[goal] for goal in study.objectives.values()],
            load_if_exists=True,
        )
        known = self.optuna.get_trials(deepcopy=False)
        self.optuna.sampler = make_sampler(study, len(known))
        points = study.first_points()
        for point in points[len(known) :]:
            self.optuna.enqueue_trial(point)
        self._asks_sampler = study.asks_sampler
        self._budget = study.trials or len(points)
        if not self._asks_sampler:
            self._budget = min(self._budget, len(points))
        self._trained = sum(_counts(trial) for trial in known)
        self._useless = _last_in_a_row(trial for trial in known if trial.state.is_finished())
        self._live: dict[int, optuna.Trial] = {}
        # Of a list that is shorter than the budget, a point that is answered is one less to train.
        self.replaces = self._asks_sampler or self._budget < len(points)
        answered = 0 if self.replaces else sum(_is_answered(trial) for trial in known)
        self.total = (self._budget - answered) * study.repeats

    @property
    def exhausted(self) -> bool:
        """Whether nothing is left to ask for, and every proposal was told."""
        return not self._running() and not self._has_next()

    def unfinished(self) -> list[Proposal]:
        # Optuna has no public way to go on with a trial that another process asked for.
        return [self._proposal(optuna.Trial(self.optuna, t._trial_id)) for t in self._running()]

    def ask(self) -> Proposal | None:
        if not self._has_next():
            return None
        self._trained += 1
        return self._proposal(self.optuna.ask())

    def _has_next(self) -> bool:
        if self._trained >= self._budget or self._useless >= self.PATIENCE:
            return False
        return self._asks_sampler or bool(self._with_state(TrialState.WAITING))

    def _running(self) -> list[FrozenTrial]:
        return self._with_state(TrialState.RUNNING)

    def _with_state(self, state: TrialState) -> list[FrozenTrial]:
        return self.optuna.get_trials(deepcopy=False, states=(state,))

    def _proposal(self, trial: optuna.Trial) -> Proposal:
        drawn = self.study.draw(lambda key, dimension: _suggest(trial, key, dimension))
        configs = tuple(self.study.config(drawn, repeat=k) for k in range(self.study.repeats))
        self._live[trial.number] = trial
        return Proposal(trial.number, configs)

    def tell(self, number: int, rows: Sequence[Mapping[str, Any]], *, answered: bool) -> None:
        self._useless = self._useless + 1 if answered else 0
        trial = self._live.pop(number)
        trial.set_user_attr("trial_ids", [row["trial_id"] for row in rows])
        if answered:
            trial.set_user_attr("answered", True)
            self._trained -= 1
        values = _objectives(self.study, rows)
        if values is not None:
            self.optuna.tell(trial, values)
        elif any(row["status"] == "stopped" for row in rows):
            # Without its values: what a few epochs gave says nothing about the full budget.
            self.optuna.tell(trial, state=TrialState.PRUNED)
        else:
            self.optuna.tell(trial, state=TrialState.FAIL)
        self._journal.keep()

    def keep(self) -> None:
        self._journal.keep(now=True)


def _objectives(study: Study, rows: Sequence[Mapping[str, Any]]) -> list[float] | None:
    """Means over the repeats; None unless all of them completed with all values."""
    if any(row["status"] != "completed" for row in rows):
        return None
    means = []
    for key in study.objectives:
        values = [row.get(key) for row in rows]
        if any(value is None or value != value for value in values):
            return None
        means.append(sum(values) / len(values))  # type: ignore[arg-type]
    return means


def _is_answered(trial: FrozenTrial) -> bool:
    """Whether a proposal was told from earlier rows. The mark is set before it is told."""
    return trial.state.is_finished() and bool(trial.user_attrs.get("answered", False))


def _counts(trial: FrozenTrial) -> bool:
    """Whether a trial of an earlier run has used a part of the budget."""
    return trial.state != TrialState.WAITING and not _is_answered(trial)


def _last_in_a_row(told: Iterable[FrozenTrial]) -> int:
    """How many proposals brought nothing new since the last that did."""
    count = 0
    for trial in told:
        count = count + 1 if _is_answered(trial) else 0
    return count


def _suggest(trial: optuna.Trial, key: str, dimension: Dimension) -> Value:
    if dimension.choices is not None:
        value = trial.suggest_categorical(key, dimension.choices)
        assert value is not None
        return value
    assert dimension.low is not None
    low, last = dimension.low, dimension.last
    if setting_of(key).kind is int:
        step = int(dimension.step or 1)
        return trial.suggest_int(key, int(low), int(last), step=step, log=dimension.log)
    return trial.suggest_float(key, low, last, step=dimension.step, log=dimension.log)

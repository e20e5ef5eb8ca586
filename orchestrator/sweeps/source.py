"""OptunaSource: configs from a study's space, by Optuna's ask and tell."""

import json
import math
from collections.abc import Sequence
from datetime import UTC
from typing import Any, cast

import optuna
from optuna.samplers import RandomSampler
from optuna.storages import JournalStorage
from optuna.study import StudyDirection
from optuna.trial import FixedTrial, FrozenTrial, TrialState

from orchestrator.sweeps.journal import Journal
from orchestrator.sweeps.proposal import Known, Proposal, Row, refused
from orchestrator.sweeps.samplers import make_sampler
from search_spaces.dimension import Dimension, Value, setting_of
from search_spaces.spec import Study
from trainables.constraints import Constraint
from trainables.objectives import value_of

_DIRECTIONS = {"max": StudyDirection.MAXIMIZE, "min": StudyDirection.MINIMIZE}


class OptunaSource:
    """A study's space under an Optuna sampler.

    Budget: the study's ``trials``, counting configs that were trained; a config equal to an
    earlier one costs nothing. The search ends early where `PATIENCE` proposals in a row bring
    nothing new: the space is exhausted.

    Args:
        study: what to try.
        journal: of the sweep; holds Optuna's state while it runs.
        sweep: name of the Optuna study.
        known: the proposals of earlier runs, by number, all of them from 0.
    """

    PATIENCE = 100

    def __init__(
        self, study: Study, journal: Journal, sweep: str, known: Sequence[Known] = ()
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.study = study
        self._journal = journal
        self.optuna = optuna.create_study(
            study_name=sweep,
            storage=JournalStorage(journal),
            sampler=RandomSampler(),
            directions=[_DIRECTIONS[goal] for goal in study.objectives.values()],
        )
        for proposal in known:
            self.optuna.add_trial(_trial(study, proposal))
        # Optuna has no public way to go on with a trial of another process. This one would ask
        # the study's sampler, which is therefore set afterwards.
        self._live = {t.number: optuna.Trial(self.optuna, t._trial_id) for t in self._running()}
        self._unfinished = [proposal.row for proposal in known if proposal.told is None]
        points = study.first_points()
        for point in points[len(known) :]:
            self.optuna.enqueue_trial(point)
        self.optuna.sampler = make_sampler(study, max(len(points), len(known)) if known else 0)
        self._asks_sampler = study.asks_sampler
        self._budget = study.budget(len(points))
        answers = [proposal.answered for proposal in known if proposal.told is not None]
        self._trained = len(known) - sum(answers)
        # Since the last that brought something new.
        self._useless = [*reversed(answers), False].index(False)
        # Of a list that is shorter than the budget, a point that is answered is one less to train.
        self.replaces = self._asks_sampler or self._budget < len(points)
        self.total = (self._budget - (0 if self.replaces else sum(answers))) * study.repeats

    @property
    def exhausted(self) -> bool:
        """Whether nothing is left to ask for, and every proposal was told."""
        return not self._running() and not self._has_next()

    def unfinished(self) -> list[Proposal]:
        return [self._proposal(row) for row in self._unfinished]

    def ask(self) -> Proposal | None:
        if not self._has_next():
            return None
        self._trained += 1
        trial = self.optuna.ask()
        drawn = self.study.space.draw(lambda key, dimension: _suggest(trial, key, dimension))
        self._live[trial.number] = trial
        asked = self.optuna.get_trials(deepcopy=False)[trial.number]
        assert asked.datetime_start is not None
        row = {
            "number": trial.number,
            "params": json.dumps(drawn),
            "attrs": json.dumps(asked.system_attrs),
            "proposed_at": asked.datetime_start.astimezone(UTC),
        }
        return self._proposal(row)

    def _has_next(self) -> bool:
        if self._trained >= self._budget or self._useless >= self.PATIENCE:
            return False
        return self._asks_sampler or bool(self._with_state(TrialState.WAITING))

    def _running(self) -> list[FrozenTrial]:
        return self._with_state(TrialState.RUNNING)

    def _with_state(self, state: TrialState) -> list[FrozenTrial]:
        return self.optuna.get_trials(deepcopy=False, states=(state,))

    def _proposal(self, row: Row) -> Proposal:
        # From the row alone, also when it was just drawn: the same again after any interruption.
        drawn = json.loads(row["params"])
        configs = tuple(self.study.config(drawn, repeat=k) for k in range(self.study.repeats))
        return Proposal(row["number"], configs, row)

    def tell(self, number: int, rows: Sequence[Row], *, answered: bool) -> None:
        self._useless = self._useless + 1 if answered else 0
        self._trained -= answered
        trial = self._live.pop(number)
        for key, value in _notes(rows, answered).items():
            trial.set_user_attr(key, value)
        for key, value in excesses(self.study.bounds, rows).items():
            trial.set_constraint(key, value)
        state, values = _outcome(self.study, rows)
        self.optuna.tell(trial, values, state)

    def keep(self) -> None:
        self._journal.keep()


def _trial(study: Study, known: Known) -> FrozenTrial:
    """A proposal of an earlier run as Optuna had it then."""
    row, rows = known.row, known.told
    fixed = FixedTrial(json.loads(row["params"]))
    study.space.draw(lambda key, dimension: _suggest(cast(optuna.Trial, fixed), key, dimension))
    state, values = (TrialState.RUNNING, None) if rows is None else _outcome(study, rows)
    trial = optuna.trial.create_trial(
        state=state,
        values=values,
        params=fixed.params,
        distributions=fixed.distributions,
        user_attrs=None if rows is None else _notes(rows, known.answered),
        system_attrs=json.loads(row["attrs"]),
        constraints={} if rows is None else excesses(study.bounds, rows),
    )
    trial.datetime_start = row["proposed_at"]
    if rows is not None:
        ends = [end for one in rows if (end := one.get("ended_at")) is not None]
        trial.datetime_complete = max(ends, default=row["proposed_at"])
    return trial


def _notes(rows: Sequence[Row], answered: bool) -> dict[str, Any]:
    """What Optuna keeps of a proposal beside its values."""
    notes: dict[str, Any] = {"trial_ids": [row["trial_id"] for row in rows]}
    return notes | ({"answered": True} if answered else {})


def _outcome(study: Study, rows: Sequence[Row]) -> tuple[TrialState, list[float] | None]:
    values = _objectives(study, rows)
    if values is not None:
        return TrialState.COMPLETE, values
    if any(refused(row) for row in rows):
        # With the worst there is for what nobody knows, because samplers learn from completed
        # trials alone, by how far they are beyond the constraints before anything else.
        worst = {"max": -math.inf, "min": math.inf}
        known = [_mean(rows, key) for key in study.objectives]
        goals = study.objectives.values()
        return TrialState.COMPLETE, [
            worst[goal] if value is None else value
            for goal, value in zip(goals, known, strict=True)
        ]
    if any(row["status"] == "stopped" for row in rows):
        # Without its values: what a few epochs gave says nothing about the full budget.
        return TrialState.PRUNED, None
    return TrialState.FAIL, None


def _objectives(study: Study, rows: Sequence[Row]) -> list[float] | None:
    """Means over the repeats; None unless all of them completed with all values."""
    if any(row["status"] != "completed" for row in rows):
        return None
    means = [_mean(rows, key) for key in study.objectives]
    known = [value for value in means if value is not None]
    return known if len(known) == len(means) else None


def _mean(rows: Sequence[Row], key: str) -> float | None:
    """Of an objective; None unless all rows have it."""
    values = [value_of(row, key) for row in rows]
    if any(value is None or value != value for value in values):
        return None
    return sum(values) / len(values)


def excesses(constraints: Sequence[Constraint], rows: Sequence[Row]) -> dict[str, float]:
    """How far a config is beyond every constraint: above 0 it violates it.

    A mean over its repeats, as of the objectives: one repeat beyond a bound is no violation where
    the mean keeps it. Where repeats were not even trained, they alone decide. What no row tells
    counts 0: samplers expect a number of every constraint.

    Args:
        constraints: of the study.
        rows: of the config's repeats.
    """
    untrained = [json.loads(row["violations"]) for row in rows if refused(row)]
    found = {}
    for one in constraints:
        if untrained:
            beyond = [row.get(one.name, 0.0) for row in untrained]
        else:
            values = (value_of(row, one.name) for row in rows)
            beyond = [one.excess(value) for value in values if value is not None]
        mean = sum(beyond) / len(beyond) if beyond else 0.0
        found[one.name] = 0.0 if math.isnan(mean) else mean
    return found


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

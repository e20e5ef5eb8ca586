"""Which students are worth a look: averages over seeds, and the non-dominated front.

Everything here selects on validation columns; the test set is only ever shown.
"""

import json
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pandas as pd

from orchestrator.results.bounds import Bounds, keeping
from orchestrator.results.chains import model_of
from orchestrator.results.latencies import with_latencies
from orchestrator.results.store import Store
from search_spaces.reading import read_yaml
from trainables.column import Direction
from trainables.columns import TRIALS
from trainables.errors import UserError, unknown
from trainables.experiment import decisive
from trainables.objectives import check_objective, column_of, metric_of, timed_with
from trainables.settings import Role
from trainables.tasks.metrics import SHOWN, headline

OBJECTIVES: Mapping[str, Direction] = {"val_acc": "max", "compression_params": "max"}
"""Of studies that give none and have a teacher; without one, val_acc alone."""

_GROUP = ["dataset", "teacher", "stage", "settings"]
_NUMBERS = [name for name, c in TRIALS.items() if c.role == "fact" and c.kind is not str]


def over_seeds(frame: pd.DataFrame) -> pd.DataFrame:
    """Average the finished trials that differ in their seeds only.

    Args:
        frame: rows of ``trials``. Search and confirm trials are never averaged together, and a
            trial that ran twice (one ``config_key``) counts once.

    Returns:
        One row per config with the columns of ``trials``: measured ones are means over the seeds,
        and so are facts that a step of the compression has made different; the others are those of
        the first trial (``student``: ``MODEL~*`` where they differ). And ``settings`` (JSON of
        those that decide, less the seeds), ``n`` (trials), ``trial_ids`` (all, separated by
        spaces), for each of `SHOWN` ``*_sd`` (ddof 1; NaN for one seed), ``*_n`` (how many had it)
        and ``*_by_seed`` (the value of each; no score of maps that no trial has), and the headline
        metrics under their own names: ``val_map``.

    Raises:
        UserError: trials of one data set have two headline metrics.
    """
    finished = frame[frame["status"] == "completed"].copy()
    finished["stage"] = finished["stage"].fillna("search")
    places = zip(finished["sweep"], finished["trial_id"], strict=True)
    alone = [json.dumps({"trial": place}) for place in places]
    finished["settings"] = [
        common(config if isinstance(config, str) else own, "seed")
        for config, own in zip(finished["config"], alone, strict=True)
    ]
    repeated = finished.duplicated([*_GROUP, "config_key"], keep="last")
    finished = finished[~repeated | finished["config_key"].isna()]
    groups = finished.groupby(_GROUP, sort=False, dropna=False)
    known = {name: column_of(str(name)) for name in frame.columns if name not in _GROUP}
    how = {name: "mean" if c and c.role == "measured" else "first" for name, c in known.items()}
    points = groups.agg(how)
    for name in _NUMBERS:
        differ = groups[name].max() > groups[name].min()
        if differ.any():
            points[name] = groups[name].mean().where(differ, points[name])
    several = groups["student"].nunique() > 1
    points.loc[several, "student"] = points.loc[several, "student"].map(model_of) + "~*"
    points["n"] = groups.size()
    points["trial_ids"] = groups["trial_id"].agg(" ".join)
    seeds = groups["seed"].agg(list)
    for metric in [name for name in SHOWN if name in SHOWN[:4] or finished[name].notna().any()]:
        values = groups[metric].agg(list)
        by_seed = [dict(zip(*both, strict=True)) for both in zip(seeds, values, strict=True)]
        points[f"{metric}_by_seed"] = pd.Series(by_seed, points.index, dtype=object)
        points[f"{metric}_sd"] = groups[metric].std()
        points[f"{metric}_n"] = groups[metric].count()
    return _named(points.reset_index())


def _named(points: pd.DataFrame) -> pd.DataFrame:
    """The points, with their headline metrics under their own names, too."""
    for dataset, own in points.groupby("dataset")["metric"]:
        if own.nunique() > 1:
            raise UserError(
                f"trials of '{dataset}' have different metrics, {' and '.join(own.unique())}: "
                "name sweeps of one of them"
            )
    for metric in points["metric"].dropna().unique():
        for part in ("val", "test"):
            if f"{part}_{metric}" not in TRIALS:
                values = points[f"{part}_score"].where(points["metric"] == metric)
                points[f"{part}_{metric}"] = values
    return points


def signs(points: pd.DataFrame) -> pd.Series:
    """By what a headline metric is multiplied so that larger is better: 1 or -1."""
    ways = [headline(name).better for name in points["metric"]]
    return pd.Series([1.0 if way == "max" else -1.0 for way in ways], points.index, dtype=float)


def common(config: str, *less: Role) -> str:
    """JSON of the `decisive` settings of a config, itself JSON: what trials have in common."""
    return json.dumps(decisive(json.loads(config), *less), sort_keys=True)


def non_dominated(frame: pd.DataFrame, objectives: Mapping[str, Direction]) -> pd.Series:
    """Which rows no other row dominates (at least as good everywhere, better somewhere).

    Args:
        frame: any frame with the objectives as columns.
        objectives: column -> ``"max"`` or ``"min"``.

    Returns:
        Booleans on the frame's index. Equal rows stay together; a row with a missing objective
        is never on the front, and dominates none.

    Raises:
        UserError: a column or a direction is unknown.
    """
    for name, direction in objectives.items():
        if name not in frame.columns:
            raise unknown("objective", name, map(str, frame.columns))
        if direction not in ("max", "min"):
            raise unknown(f"direction of objective {name}", direction, ("max", "min"))
    signs = np.array([1.0 if way == "max" else -1.0 for way in objectives.values()])
    values = frame[list(objectives)].to_numpy(dtype=float, na_value=np.nan) * signs
    complete = np.flatnonzero(~np.isnan(values).any(axis=1))
    # Best sums first: they throw out most others, and only members of the front take a turn.
    alive = complete[np.argsort(-values[complete].sum(axis=1), kind="stable")]
    turn = 0
    while turn < len(alive):
        rivals = values[alive]
        pivot = rivals[turn]
        beaten = (pivot >= rivals).all(axis=1) & (pivot > rivals).any(axis=1)
        turn += 1 - int(beaten[:turn].sum())
        alive = alive[~beaten]
    mask = np.zeros(len(frame), dtype=bool)
    mask[alive] = True
    return pd.Series(mask, index=frame.index)


def front(
    frame: pd.DataFrame,
    objectives: Mapping[str, Direction] = OBJECTIVES,
    bounds: Bounds | None = None,
) -> pd.DataFrame:
    """The non-dominated configs of the search, each averaged over its seeds.

    Args:
        frame: rows of ``trials``; confirm rows are left out, as they saw the validation images.
        objectives: validation and cost columns -> ``"max"`` or ``"min"``.
        bounds: constraints of the sweeps; a config that violates one is on no front.

    Returns:
        Rows as `over_seeds` gives them, one front per dataset and teacher, sorted by compression.
        Its ``attrs["violating"]`` is how many configs were left out.

    Raises:
        UserError: an objective is unknown, is no number to optimise, or is of the test set.
    """
    bounds = bounds or {}
    for name in objectives:
        check_objective(name)
    names = {*objectives, *(one.name for some in bounds.values() for one in some)}
    points = over_seeds(with_latencies(frame[frame["stage"] != "confirm"], names))
    points = points.assign(**{name: np.nan for name in objectives if name not in points})
    kept = keeping(points, bounds)
    points = points[kept]
    found = points[_per_teacher(points, objectives)].sort_values(
        ["dataset", "teacher", "compression_params", "val_score"], ignore_index=True
    )
    found.attrs["violating"] = int((~kept).sum())
    return found


def collapsed(points: pd.DataFrame, objectives: Collection[str]) -> pd.DataFrame:
    """Rows of a front, of which those with equal objectives are one.

    Args:
        points: as `front` gives them.
        objectives: the columns that have to be equal.

    Returns:
        One row of each in the order of the front, with ``equal``: how many there were. The plain
        student stands for all where it is among them: it is as good without a method.
    """
    place = ["dataset", "teacher", *objectives]
    equal = points.groupby(place, dropna=False)["trial_id"].transform("size").astype(int)
    plain_first = points.assign(equal=equal, taught=points["method"] != "student")
    plain_first = plain_first.sort_values("taught", kind="stable").drop(columns="taught")
    return plain_first.drop_duplicates(place).sort_index(ignore_index=True)


def objectives_of(results: str, sweeps: Sequence[str]) -> dict[str, Direction]:
    """The objectives of the sweeps' own study.

    Raises:
        UserError: a ``study.yaml`` is damaged, or the sweeps have different objectives.
    """
    found = {sweep: _own_objectives(Store(results, sweep)) for sweep in sweeps}
    first, *others = found
    for other in others:
        if found[other] != found[first]:
            raise UserError(
                f"sweeps '{first}' and '{other}' have different objectives: name them by "
                "--objective COLUMN=max|min"
            )
    return found[first]


def _own_objectives(store: Store) -> dict[str, Direction]:
    """Read without the rest of the study, which takes torch to understand."""
    if not store.folder.exists("study.yaml"):
        return dict(OBJECTIVES)
    where = f"{store.folder}/study.yaml"
    content = read_yaml(store.read_study(), where)
    if not isinstance(content, dict):
        raise UserError(f"{where} is no study: expected keys and values; put it back as it was")
    alone = not (content.get("teacher") or content.get("pairs"))
    own = content.get("objectives", {"val_acc": "max"} if alone else dict(OBJECTIVES))
    if not isinstance(own, dict) or not own or not {*own.values()} <= {"max", "min"}:
        raise UserError(f"{where}: objectives: expected columns with max or min, got {own!r:.60}")
    return own


def nothing_finished(
    frame: pd.DataFrame, needed: Sequence[str] = (), without: str = ""
) -> UserError:
    """Why there is nothing to show: an error of one line.

    Args:
        frame: rows of ``trials``.
        needed: columns that a trial must have to be shown.
        without: what was left out, in words.
    """
    if without:
        return UserError(f"no config keeps all constraints: {without}")
    finished = frame[frame["status"] == "completed"]
    if frame.empty:
        return UserError("no finished trial: none has ended yet")
    if finished.empty:
        counts = ", ".join(f"{n} {status}" for status, n in frame["status"].value_counts().items())
        errors = frame["error"].dropna().value_counts()
        most = f"; most often: {str(errors.index[0])[:160]}" if len(errors) else ""
        return UserError(f"no finished trial: {counts}{most}")
    for name in needed:
        if name not in finished or finished[name].isna().all():
            why = _because(name, finished["metric"].dropna().unique().tolist())
            return UserError(f"no finished trial of {len(finished)} has {name}{why}")
    if (finished["stage"] == "confirm").all():
        return UserError(f"no finished trial of the search: {len(finished)} are of its confirm")
    return UserError(f"no finished trial of {len(finished)} has all of {', '.join(needed)}")


def _because(column: str, metrics: Sequence[str]) -> str:
    if metrics and metric_of(column) not in (None, *metrics):
        return f": what they are measured by is {', '.join(metrics)} (val_score, test_score)"
    known = column_of(column)
    needs = known.needs if known else ()
    if timed_with(column):
        return ": none was timed with that runtime; a study asks for it by fixed.latencies"
    if "explainers" in needs:
        return ": none was explained; a study asks for it by fixed.explainers"
    if "validation" in needs:
        return ": val_fraction is 0, so that no image validates"
    return ": without a teacher there is nothing to compare with" if "teacher" in needs else ""


def _per_teacher(points: pd.DataFrame, objectives: Mapping[str, Direction]) -> pd.Series:
    mask = non_dominated(points.iloc[:0], objectives)  # checks the objectives
    groups = [
        non_dominated(group, objectives)
        for _, group in points.groupby(["dataset", "teacher"], dropna=False)
    ]
    return pd.concat([mask, *groups]).reindex(points.index).astype(bool)


def with_confirmation(frame: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Every config with the value to show: of its confirm trials if it has some.

    Args:
        frame: rows of ``trials``.
        metric: one of `SHOWN`; those of validation confirm trials have not.

    Returns:
        Rows as `over_seeds` gives them, one per config. ``shown``, ``shown_sd``, ``shown_n`` and
        ``shown_by_seed`` are the metric's mean, sd, count and values, ``shown_stage`` the stage
        they come from; ``trial_id``, ``trial_ids`` and ``config_key`` are of that stage.
        ``val_acc`` and ``val_score`` are of the search.

    Raises:
        UserError: the metric is unknown.
    """
    if metric not in SHOWN:
        raise unknown("metric", metric, SHOWN)
    points = over_seeds(frame)
    if f"{metric}_sd" not in points:
        raise nothing_finished(frame, [metric])
    endings = ("", "_sd", "_n", "_by_seed")
    names = {f"{metric}{ending}": f"shown{ending}" for ending in endings}
    for source, target in names.items():
        points[target] = points[source]
    points["shown_stage"] = points["stage"]
    # Confirm trials learn from the whole training set: the one setting in which they differ.
    points["match"] = [common(settings, "split") for settings in points["settings"]]
    is_confirm = points["stage"] == "confirm"
    searched, confirmed = points[~is_confirm], points[is_confirm]
    if metric.startswith("val_"):
        return searched.drop(columns="match")
    # A confirm trial learned from the validation images: what it says of them means nothing.
    own = ["val_acc", "val_score"]
    confirmed = confirmed[confirmed["shown"].notna()].drop(columns=own)
    chosen = confirmed.merge(searched[["match", *own]], on="match", how="left")
    others = searched[~searched["match"].isin(confirmed["match"])]
    return pd.concat([chosen, others], ignore_index=True).drop(columns="match")

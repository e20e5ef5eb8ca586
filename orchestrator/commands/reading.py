"""The verbs that read results: as a table, a front, a picture, by SQL."""

from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.commands.catalogue import columns
from orchestrator.commands.printing import print_frame
from trainables.errors import UserError
from trainables.tasks.metrics import headline


def table(options: Namespace) -> int:
    from orchestrator.results import tables, views
    from orchestrator.results.bounds import bounds_of

    if options.against:
        from orchestrator.results import against

        if not options.metric.startswith("test_"):
            raise UserError(f"--metric {options.metric}: published numbers are test accuracies")
        beside = against.against_published(options.results, _sweeps(options))
        print(against.render(beside, options.format), end="")
        return 0
    sweeps = _sweeps(options)
    frame = views.trials(options.results, sweeps)
    bounds = bounds_of(options.results, sweeps)
    made = tables.compression_table(frame, metric=options.metric, bounds=bounds)
    print(tables.render(made, options.format), end="")
    return 0


def front(options: Namespace) -> int:
    from orchestrator.results import front as fronts
    from orchestrator.results import views
    from orchestrator.results.bounds import bounds_of, left_out

    sweeps = _sweeps(options)
    frame = views.trials(options.results, sweeps)
    asked = options.objective
    objectives = _objectives(asked) if asked else fronts.objectives_of(options.results, sweeps)
    found = fronts.front(frame, objectives, bounds_of(options.results, sweeps))
    without = left_out(found.attrs["violating"])
    if found.empty:
        raise fronts.nothing_finished(frame, list(objectives), without)
    if not options.csv:
        print(_aims(objectives, asked, bool(found["val_score"].isna().all())))
        if without:
            print(f"{without}.")
    found = fronts.collapsed(found, objectives)
    own = dict.fromkeys(headline(name).name for name in found["metric"])
    scores = [f"{part}_{name}" for name in own for part in ("val", "test")]
    columns = ["method", "student", "compression_params", *scores, "n"]
    columns += [key for key in objectives if key not in columns] + ["equal", "trial_id"]
    print_frame(found[columns], csv=options.csv)
    return 0


def _objectives(texts: list[str]) -> Any:
    objectives = {}
    for text in texts:
        column, _, goal = text.partition("=")
        if goal not in ("max", "min"):
            raise UserError(f"--objective {text}: expected COLUMN=max or COLUMN=min")
        if column in objectives:
            raise UserError(f"--objective {text}: {column} is named twice")
        objectives[column] = goal
    return objectives


def _aims(objectives: Mapping[str, str], asked: Any, blind: bool) -> str:
    aims = ", ".join(f"{column} {goal}" for column, goal in objectives.items())
    whose = "as asked" if asked else "the study's own"
    text = f"front over {aims} ({whose}); equal: configs with just these values"
    if blind and not any(key.startswith("val_") for key in objectives):
        text += (
            ".\nNo trial has val_acc (val_fraction: 0) and nothing is chosen by the test set: no "
            "accuracy decides here. `kdsweep table` shows every config"
        )
    return text + "."


def plot(options: Namespace) -> int:
    from orchestrator.results import plots, views

    frame = views.trials(options.results, _sweeps(options))
    path = Path(options.output or f"{_sweeps(options)[0]}.png")
    plots.accuracy_versus_compression(
        frame, path, axis=options.x.removeprefix("compression_"), metric=options.metric
    )
    print(path)
    return 0


def query(options: Namespace) -> int:
    if options.columns:
        return columns()
    if options.sql is None:
        raise UserError("query: expected a statement, such as SELECT, or --columns")
    from orchestrator.results import views

    print_frame(views.run_sql(options.results, options.sql), csv=options.csv)
    return 0


def _sweeps(options: Namespace) -> list[str]:
    """The sweeps that were named, or the one begun last."""
    from orchestrator.results.store import Store

    return options.sweeps or [Store.newest(options.results)]

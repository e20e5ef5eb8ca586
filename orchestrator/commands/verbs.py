"""What each verb of the command line does. One function a verb; returns the exit code."""

import sys
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.commands.caching import cache
from orchestrator.commands.catalogue import columns, datasets, methods, models, studies
from orchestrator.commands.printing import print_frame, print_pairs, print_table, rounded
from trainables.errors import UserError
from trainables.tasks.metrics import headline

__all__ = [
    "cache",
    "confirm",
    "datasets",
    "front",
    "methods",
    "models",
    "plot",
    "query",
    "resume",
    "run",
    "studies",
    "table",
    "teacher",
    "trial",
]


def run(options: Namespace) -> int:
    from search_spaces.load import load_study

    assignments = [*options.set]
    if options.trials is not None:
        assignments.append(f"trials={options.trials}")
    study = load_study(options.study, assignments)
    from orchestrator.sweeps import sweep  # which loads much that a refused study needs not

    return _end(sweep.run(study, _options(options), options.name))


def resume(options: Namespace) -> int:
    from orchestrator.sweeps import sweep

    return _end(sweep.resume(options.sweep, _options(options)))


def confirm(options: Namespace) -> int:
    from orchestrator.sweeps import confirm, sweep

    chosen = _options(options)
    groups = confirm.choose(options.sweep, chosen.results, options.seeds, options.top)
    return _end(sweep.confirm(options.sweep, groups, chosen))


def trial(options: Namespace) -> int:
    from search_spaces.load import load_study

    study = None
    if not options.replay:
        if options.study is None:
            raise UserError("trial: expected a study, or --replay SWEEP TRIAL_ID")
        study = load_study(options.study, options.set)
    from orchestrator.commands import local

    chosen = _options(options)
    profile = Path(options.profile) if options.profile else None

    def work() -> int:
        if study is None:
            sweep, trial_id = options.replay
            before, now = local.replay(
                sweep, trial_id, chosen, say=local.print_line, profile=profile
            )
            _print_row(now)
            key, own = "val_score", headline(before["metric"]).name
            print(f"val_{own} of {trial_id}: {before[key]}, now {now.get(key)}")
            if before["code_version"] != now["code_version"]:
                made, this = before["code_version"], now["code_version"]
                print(f"{trial_id} was made by kdsweep {made}; this is {this}")
            return 0
        _print_row(local.run_trial(study, chosen, say=local.print_line, profile=profile))
        return 0

    return _debugged(work) if options.pdb else work()


def table(options: Namespace) -> int:
    from orchestrator.results import tables, views

    if options.against:
        from orchestrator.results import against

        if not options.metric.startswith("test_"):
            raise UserError(f"--metric {options.metric}: published numbers are test accuracies")
        beside = against.against_published(options.results, _sweeps(options))
        print(against.render(beside, options.format), end="")
        return 0
    frame = views.trials(options.results, _sweeps(options))
    made = tables.compression_table(frame, metric=options.metric)
    print(tables.render(made, options.format), end="")
    return 0


def front(options: Namespace) -> int:
    from orchestrator.results import front as fronts
    from orchestrator.results import views

    sweeps = _sweeps(options)
    frame = views.trials(options.results, sweeps)
    asked = options.objective
    objectives = _objectives(asked) if asked else fronts.objectives_of(options.results, sweeps)
    found = fronts.front(frame, objectives)
    if found.empty:
        raise fronts.nothing_finished(frame, list(objectives))
    if not options.csv:
        print(_aims(objectives, asked, bool(found["val_score"].isna().all())))
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


def teacher(options: Namespace) -> int:
    if options.action == "list":
        return _list_teachers(options.results)
    made = {"import": _import_teacher, "adopt": _adopt_teacher, "train": _train_teachers}
    for card in made[options.action](options):
        print(
            f"teacher {card.name} ({card.blueprint.label}): {card.tested} on the "
            f"test set of {card.dataset}; {card.params:,} parameters; "
            f"input mean {rounded(card.mean)}, std {rounded(card.std)}"
        )
    return 0


def _list_teachers(results: str) -> int:
    from trainables.teachers.teacher import list_teachers, made_how

    rows, damaged = [], []
    for name, card in list_teachers(results).items():
        if isinstance(card, UserError):
            damaged.append(card)
            continue
        rows.append(
            (
                name,
                card.blueprint.label,
                made_how(card),
                card.dataset,
                card.tested,
                f"{card.params:,}",
                card.fingerprint[:12],
                card.created_at,
            )
        )
    header = ("teacher", "model", "how", "dataset", "test", "parameters", "fingerprint", "created")
    print_table(header, rows)
    for error in damaged:
        print(f"kdsweep: {error}", file=sys.stderr)
    return 0


def _class_names(text: str | None) -> list[str] | None:
    """Names joined by commas, or a file with one a line."""
    if text is None:
        return None
    try:
        names = Path(text).read_text().splitlines() if "," not in text else text.split(",")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"--class-names {text}: expected names joined by commas, or a file with one a line"
        ) from error
    return [name.strip() for name in names if name.strip()]


def _import_teacher(options: Namespace) -> list[Any]:
    from orchestrator.sweeps.sweep import absolute
    from trainables.data.sources import load_dataset
    from trainables.files import open_folder
    from trainables.teachers.importing import import_teacher

    open_folder(options.results).check_writable()
    card = import_teacher(
        options.model,
        options.file,
        load_dataset(options.dataset or "cifar10", options.data, image_size=options.image_size),
        results=absolute(options.results),
        name=options.name,
        normalisation=options.normalisation,
        class_names=_class_names(options.class_names),
        force=options.force,
        replacing=options.replace,
        say=print,
    )
    return [card]


def _adopt_teacher(options: Namespace) -> list[Any]:
    from orchestrator.results.store import Store
    from orchestrator.sweeps.sweep import absolute
    from trainables.teachers.adopting import adopt_student

    results = absolute(options.results)
    Store(results, options.sweep).read_study()  # there is such a sweep
    card = adopt_student(
        results,
        options.sweep,
        options.trial_id,
        options.name,
        replacing=options.replace,
        say=print,
    )
    return [card]


def _train_teachers(options: Namespace) -> list[Any]:
    from search_spaces.load import load_study

    study = load_study(options.study, options.set)
    from orchestrator.commands import local

    return local.run_teachers(
        study,
        _options(options),
        say=local.print_line,
        replacing=options.replace,
    )


def _sweeps(options: Namespace) -> list[str]:
    """The sweeps that were named, or the one begun last."""
    from orchestrator.results.store import Store

    return options.sweeps or [Store.newest(options.results)]


def _options(options: Namespace) -> Any:
    from orchestrator.sweeps.address import address_of

    given = vars(options)
    if given.get("address") not in (None, "auto"):
        address_of(given["address"])  # in seconds, before anything takes time
    from orchestrator.sweeps import cluster
    from orchestrator.sweeps.sweep import Options

    if given.get("max_concurrent") is not None and given["max_concurrent"] < 1:
        raise UserError(f"--max-concurrent: expected at least 1, got {given['max_concurrent']}")
    return Options(
        results=options.results,
        data_dir=options.data,
        address=given.get("address"),
        max_concurrent=given.get("max_concurrent"),
        gpus_per_trial=cluster.read_share(given.get("gpus_per_trial", "auto")),
        fresh_workers=given.get("fresh_workers", False),
    )


def _end(outcome: Any) -> int:
    name = outcome.sweep
    if not outcome.finished:  # said already, before anything else could go wrong
        return 1
    done = f"{outcome.completed} trials completed, {outcome.failed} failed"
    print(
        f"{done if outcome.completed + outcome.failed else 'nothing left to do'}; "
        f"see `kdsweep table {name}`, `kdsweep front {name}`, `kdsweep plot {name}`"
    )
    return 1 if outcome.failed and not outcome.completed else 0


def _debugged(work: Any) -> int:
    import pdb
    import traceback

    try:
        code: int = work()
        return code
    except UserError:
        raise
    except Exception as error:
        traceback.print_exc()
        first: BaseException = error  # where it broke, not where it was put into words
        while first.__cause__ is not None:
            first = first.__cause__
        pdb.post_mortem(first.__traceback__)
        return 1


def _print_row(row: dict[str, Any]) -> None:
    keys = (
        "config_key",
        "method",
        "student",
        "params",
        "macs",
        "compression_params",
        "compression_macs",
        "teacher",
        "teacher_test_acc",
        "latency_ms",
        "images_per_second",
        "train_seconds",
        "val_acc",
        "test_acc",
    )
    shown = {key: row[key] for key in keys if row.get(key) is not None}
    if row["metric"] != "acc":
        shown |= {f"{part}_{row['metric']}": row.get(f"{part}_score") for part in ("val", "test")}
    print_pairs("result", {key: value for key, value in shown.items() if value is not None})

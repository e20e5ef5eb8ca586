"""What each verb of the command line does. One function a verb; returns the exit code."""

import json
import sys
from argparse import Namespace
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table

from search_spaces.load import load_study, study_names
from trainables.errors import UserError


def run(options: Namespace) -> int:
    from orchestrator import sweep

    assignments = [*options.set]
    if options.trials is not None:
        assignments.append(f"trials={options.trials}")
    study = load_study(options.study, assignments)
    return _end(sweep.run(study, _options(options), options.name))


def resume(options: Namespace) -> int:
    from orchestrator import sweep

    return _end(sweep.resume(options.sweep, _options(options)))


def confirm(options: Namespace) -> int:
    from orchestrator import confirm, sweep

    chosen = _options(options)
    groups = confirm.choose(options.sweep, chosen.results, options.seeds, options.top)
    return _end(sweep.confirm(options.sweep, groups, chosen))


def trial(options: Namespace) -> int:
    from orchestrator import local

    chosen = _options(options)
    profile = Path(options.profile) if options.profile else None

    def work() -> int:
        if options.replay:
            sweep, trial_id = options.replay
            before, now = local.replay(
                sweep, trial_id, chosen, say=local.print_line, profile=profile
            )
            _print_row(now)
            print(f"val_acc of {trial_id}: {before['val_acc']}, now {now['val_acc']}")
            return 0
        if options.study is None:
            raise UserError("trial: expected a study, or --replay SWEEP TRIAL_ID")
        study = load_study(options.study, options.set)
        _print_row(local.run_trial(study, chosen, say=local.print_line, profile=profile))
        return 0

    return _debugged(work) if options.pdb else work()


def table(options: Namespace) -> int:
    from orchestrator import query, tables

    frame = query.trials(options.results, _sweeps(options))
    made = tables.compression_table(frame, metric=options.metric)
    print(tables.render(made, options.format), end="")
    return 0


def front(options: Namespace) -> int:
    from orchestrator import front as fronts
    from orchestrator import query

    frame = query.trials(options.results, _sweeps(options))
    objectives = dict(fronts.OBJECTIVES)
    if options.objective:
        objectives = {}
        for text in options.objective:
            column, _, goal = text.partition("=")
            if goal not in ("max", "min"):
                raise UserError(f"--objective {text}: expected COLUMN=max or COLUMN=min")
            objectives[column] = goal
    found = fronts.front(frame, objectives)
    columns = ["method", "student", "compression_params", "val_acc", "test_acc", "n", "trial_id"]
    columns[5:5] = [key for key in objectives if key not in columns]
    _print_frame(found[columns], csv=options.csv)
    return 0


def plot(options: Namespace) -> int:
    from orchestrator import plots, query

    frame = query.trials(options.results, _sweeps(options))
    path = Path(options.output or f"{_sweeps(options)[0]}.png")
    plots.accuracy_versus_compression(
        frame, path, axis=options.x.removeprefix("compression_"), metric=options.metric
    )
    print(path)
    return 0


def query(options: Namespace) -> int:
    from orchestrator import query as queries

    _print_frame(queries.run_sql(options.results, options.sql), csv=options.csv)
    return 0


def studies(options: Namespace) -> int:
    if options.schema:
        from search_spaces.schema import study_schema

        print(json.dumps(study_schema(), indent=2))
    elif options.name:
        study = load_study(options.name)
        print(f"{study.name}: {study.description.strip()}\n")
        teacher = study.teacher.model_dump(exclude_none=True) if study.teacher else "none"
        print(f"dataset    {study.dataset}\nteacher    {teacher}")
        print(f"objectives {study.objectives}")
        print(
            f"budget     {study.trials or len(study.first_points())} configs, "
            f"{study.repeats} seeds each, sampler {study.sampler}\n"
        )
        _print_pairs("fixed", study.fixed)
        _print_pairs(
            "dimensions",
            {
                key: dimension.model_dump(exclude_defaults=True)
                for key, dimension in study.dimensions.items()
            },
        )
    else:
        rows = [(name, load_study(name).description.strip()) for name in study_names()]
        _print_table(("study", "what for"), rows)
    return 0


def methods(options: Namespace) -> int:
    from trainables.methods.registry import PLAIN, term_class, term_names
    from trainables.settings import settings_of

    if options.name is None:
        rows = [(PLAIN, "nothing", "cross-entropy alone")]
        for name in term_names():
            kind = term_class(name)
            rows.append((name, ", ".join(sorted(kind.needs)), _title(kind)))
        _print_table(("method", "reads of the teacher", "what it is"), rows)
        print("\nJoin terms by '+': kd+at. `kdsweep methods NAME` shows formula and settings.")
        return 0
    for name in options.name.split("+"):
        kind = term_class(name)
        print((sys.modules[kind.__module__].__doc__ or "").strip() + "\n")
        settings = settings_of(kind.Config).items()
        _print_table(
            ("setting", "default", "expected", "search", "meaning"),
            [
                (f"{name}.{key}", str(s.default), s.expected(), _range(s), s.help)
                for key, s in settings
            ],
        )
    return 0


def models(options: Namespace) -> int:
    from trainables.models.registry import create_model, describe_models

    if options.name is None:
        rows = [(m.pattern, m.example, m.description) for m in describe_models()]
        _print_table(("name", "example", "what it is"), rows)
        return 0
    import torch

    from trainables.compression.measure import count_macs, count_params, size_bytes
    from trainables.models.shapes import output_shapes

    shape = _image_shape(options.image)
    if options.classes < 2:
        raise UserError(f"--classes: expected at least 2, got {options.classes}")
    with torch.device("meta"):
        network = create_model(options.name, options.classes, shape)
        shapes = output_shapes(network, shape)
        macs = count_macs(network, shape)
    facts = [
        ("parameters", f"{count_params(network):,}"),
        ("MACs", f"{macs:,}"),
        ("bytes", f"{size_bytes(network):,}"),
        ("embedding", str(shapes.embedding)),
        *((f"stage {i}", "x".join(map(str, s))) for i, s in enumerate(shapes.stages)),
    ]
    _print_table((options.name, f"{options.classes} classes, {options.image}"), facts)
    return 0


def datasets(options: Namespace) -> int:
    from trainables.data.sources import describe_datasets, load_dataset

    if options.name is None:
        rows = [(d.name, d.description, d.expects) for d in describe_datasets()]
        _print_table(("dataset", "what it is", "expected under --data"), rows)
        return 0
    found = load_dataset(options.name, options.data, download=options.download)
    facts = [
        ("training images", f"{len(found.train):,}"),
        ("classes", f"{found.num_classes}"),
        ("image", "x".join(map(str, found.image_shape))),
        ("mean, std", f"{_rounded(found.mean)}, {_rounded(found.std)}"),
        ("views", f"crop padding {found.crop_padding}, flip {'yes' if found.flip else 'no'}"),
        ("fingerprint", found.fingerprint),
    ]
    _print_table((found.name, ""), facts)
    return 0


def teacher(options: Namespace) -> int:
    from trainables.teachers.teacher import list_teachers

    if options.action == "list":
        rows = [
            (c.name, c.model, c.dataset, f"{100 * c.test_acc:.2f} %", f"{c.params:,}", c.created_at)
            for c in list_teachers(options.results)
        ]
        _print_table(("teacher", "model", "dataset", "test", "parameters", "created"), rows)
        return 0
    card = _import_teacher(options) if options.action == "import" else _train_teacher(options)
    print(
        f"teacher {card.name} ({card.model}): {100 * card.test_acc:.2f} % on the test set of "
        f"{card.dataset}; {card.params:,} parameters; input mean {_rounded(card.mean)}, "
        f"std {_rounded(card.std)}"
    )
    return 0


def _import_teacher(options: Namespace) -> Any:
    from orchestrator.sweep import absolute
    from trainables.data.sources import load_dataset
    from trainables.files import open_folder
    from trainables.teachers.importing import import_teacher

    open_folder(options.results).check_writable()
    return import_teacher(
        options.model,
        options.file,
        load_dataset(options.dataset or "cifar10", options.data),
        results=absolute(options.results),
        name=options.name,
        normalisation=options.normalisation,
    )


def _train_teacher(options: Namespace) -> Any:
    from orchestrator import local

    return local.run_teacher(
        load_study(options.study, options.set), _options(options), say=local.print_line
    )


def _sweeps(options: Namespace) -> list[str]:
    """The sweeps that were named, or the one begun last."""
    from orchestrator.store import Store

    return options.sweeps or [Store.newest(options.results)]


def _options(options: Namespace) -> Any:
    from orchestrator import cluster
    from orchestrator.sweep import Options

    given = vars(options)
    if given.get("max_concurrent") is not None and given["max_concurrent"] < 1:
        raise UserError(f"--max-concurrent: expected at least 1, got {given['max_concurrent']}")
    return Options(
        results=options.results,
        data_dir=options.data,
        address=given.get("address"),
        max_concurrent=given.get("max_concurrent"),
        gpus_per_trial=cluster.read_share(given.get("gpus_per_trial", "auto")),
    )


def _end(outcome: Any) -> int:
    name = outcome.sweep
    if not outcome.finished:
        print(f"interrupted; go on with `kdsweep resume {name}`")
        return 1
    done = f"{outcome.completed} trials completed, {outcome.failed} failed"
    print(
        f"{done if outcome.completed + outcome.failed else 'nothing left to do'}; "
        f"see `kdsweep table {name}`, `kdsweep front {name}`, `kdsweep plot {name}`"
    )
    return 0


def _debugged(work: Any) -> int:
    import pdb
    import traceback

    try:
        code: int = work()
        return code
    except UserError:
        raise
    except Exception:
        traceback.print_exc()
        pdb.post_mortem()
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
    _print_pairs("result", {key: row[key] for key in keys if row.get(key) is not None})


def _print_pairs(title: str, pairs: dict[str, Any]) -> None:
    _print_table((title, ""), [(key, str(value)) for key, value in pairs.items()])


def _print_table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for name in header:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*row)
    _console().print(table)


def _print_frame(frame: pd.DataFrame, *, csv: bool) -> None:
    if csv:
        frame.to_csv(sys.stdout, index=False)
        return
    formats = dict.fromkeys(frame.select_dtypes("float").columns, "{:.4f}".format)
    print(frame.to_string(index=False, formatters=formats, na_rep="-"))


def _console() -> Console:
    # A pipe gets whole lines; a terminal those that fit.
    return Console(markup=False, highlight=False, width=None if sys.stdout.isatty() else 160)


def _title(kind: type) -> str:
    return (sys.modules[kind.__module__].__doc__ or "").strip().split("\n")[0]


def _range(setting: Any) -> str:
    if setting.search is None:
        return ""
    low, high = setting.search
    return f"{low:g} to {high:g}" + (", log" if setting.log else "")


def _rounded(values: tuple[float, ...]) -> str:
    return "(" + ", ".join(f"{value:.4f}" for value in values) + ")"


def _image_shape(text: str) -> tuple[int, int, int]:
    try:
        channels, height, width = (int(part) for part in text.split("x"))
    except ValueError:
        channels = height = width = 0
    if min(channels, height, width) < 1:
        raise UserError(f"--image: expected CxHxW such as 3x32x32, got {text!r}")
    return channels, height, width

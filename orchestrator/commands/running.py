"""The verbs that train: a sweep is run, resumed, confirmed; or one trial in this process."""

from argparse import Namespace
from pathlib import Path
from typing import Any

from orchestrator.commands.printing import print_pairs
from trainables.errors import UserError
from trainables.tasks.metrics import headline


def run(options: Namespace) -> int:
    from search_spaces.load import load_study

    assignments = [*options.set]
    if options.trials is not None:
        assignments.append(f"trials={options.trials}")
    study = load_study(options.study, assignments)
    from orchestrator.sweeps import sweep  # which loads much that a refused study needs not

    if options.dry_run:
        from orchestrator.commands.dry_run import dry_run

        return dry_run(study, options_of(options), options.name)
    return _end(sweep.run(study, options_of(options), options.name))


def resume(options: Namespace) -> int:
    from orchestrator.sweeps import sweep

    return _end(sweep.resume(options.sweep, options_of(options)))


def confirm(options: Namespace) -> int:
    from orchestrator.sweeps import confirm, sweep

    chosen = options_of(options)
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

    chosen = options_of(options)
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


def options_of(options: Namespace) -> Any:
    """The `Options` of a sweep that a command line gives.

    Raises:
        UserError: nobody listens at its address, or a number is out of range.
    """
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
    if outcome.refused:
        done += f", {outcome.refused} not trained for their costs"
    ended = outcome.completed + outcome.failed + outcome.refused
    print(
        f"{done if ended else 'nothing left to do'}; "
        f"see `kdsweep table {name}`, `kdsweep front {name}`, `kdsweep plot {name}`"
    )
    return 1 if ended and not outcome.completed else 0


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
        "teachers",
        "nonzero_params",
        "bit_operations",
        "activation_bytes",
        "latency_ms",
        "images_per_second",
        "train_seconds",
        "val_acc",
        "test_acc",
        "violations",
        "error",
    )
    shown = {key: row[key] for key in keys if row.get(key) is not None}
    if row["metric"] != "acc":
        shown |= {f"{part}_{row['metric']}": row.get(f"{part}_score") for part in ("val", "test")}
    print_pairs("result", {key: value for key, value in shown.items() if value is not None})

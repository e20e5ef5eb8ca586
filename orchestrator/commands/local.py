"""One trial in this process, without Ray: to debug, to profile, to repeat."""

import errno
import json
import os
import sys
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch

from orchestrator.results import views
from orchestrator.sweeps.checks import check_names
from orchestrator.sweeps.networks import check_networks
from orchestrator.sweeps.plan import Plan
from orchestrator.sweeps.surroundings import cores
from orchestrator.sweeps.sweep import Options, absolute, reopen
from orchestrator.sweeps.validation import check_validation
from search_spaces.dimension import Dimension, Value, setting_of
from search_spaces.spec import Study
from trainables.config import TrialConfig
from trainables.constraints import named
from trainables.errors import UserError, unknown
from trainables.failures import explained
from trainables.files import open_folder
from trainables.job import Run
from trainables.models.weights import Card
from trainables.objectives import value_of
from trainables.recipes import Recipe
from trainables.tasks.metrics import percent
from trainables.teacher_training import train_teacher

Say = Callable[[str], None]

PROFILED_EPOCH = 2


def run_trial(
    study: Study, options: Options, *, say: Say, profile: Path | None = None
) -> dict[str, Any]:
    """One trial of a study: dimensions that are not fixed take their default.

    Args:
        study: with what the user wants to try fixed in it.
        options: results (for the teacher) and data.
        say: gets a line for every epoch.
        profile: where to write a torch profile of one epoch.

    Returns:
        Its row of the ``trials`` table, which is not stored.
    """
    plan = Plan(study, study.name, absolute(options.results), options.data_dir)
    check_names(plan)
    check_validation(study, lambda: plan.dataset, None)
    plan = plan.with_teachers()
    check_networks(plan)
    config = study.config(study.space.draw(default_value))
    return _run(plan, config, say, profile)


def replay(
    sweep: str, trial_id: str, options: Options, *, say: Say, profile: Path | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A trial of a sweep again, with the same seeds.

    Returns:
        The row of the sweep, and the row of now.

    Raises:
        UserError: no such sweep or trial.
    """
    plan = reopen(sweep, options)
    frame = views.trials(plan.results, [sweep])
    found = frame[frame["trial_id"] == trial_id]
    if found.empty:
        raise unknown("trial", trial_id, frame["trial_id"])
    row = {str(key): value for key, value in found.iloc[0].items()}
    config = TrialConfig.from_mapping(json.loads(row["config"]))
    # As it computed there, whatever is faster here.
    known = {key: row.get(key) for key in ("precision", "teacher_precision")}
    chosen = {key: value for key, value in known.items() if isinstance(value, str)}
    again = config.replace(**chosen)
    return row, _run(plan, again, say, profile, key=plan.key(config))


@explained
def run_teachers(
    study: Study, options: Options, *, say: Say, replacing: bool = False
) -> list[Card]:
    """Trains the teachers of a study here, those above them first; none that is there already.

    Args:
        study, options, say: as for `run_trial`.
        replacing: whether those that are there are trained again, and kept under other names.

    Returns:
        Their cards, none before its own teacher's.

    Raises:
        UserError: the study trains no teacher.
    """
    plan = Plan(study, study.name, absolute(options.results), options.data_dir).with_teachers()
    open_folder(plan.results).check_writable()
    if not plan.teachers.recipes:
        raise UserError(f"study '{study.name}' trains no teacher; set teacher.model")
    for recipe in plan.teachers.recipes if replacing else plan.missing():
        say(f"training the teacher {recipe.name}")
        _train_teacher(plan, recipe, say, replacing=replacing)
    plan = plan.with_teachers()
    recipes = plan.teachers.recipes
    return [plan.cards[recipe.key] for recipe in recipes if recipe.key in plan.cards]


def _train_teacher(plan: Plan, recipe: Recipe, say: Say, *, replacing: bool = False) -> None:
    def on_epoch(row: dict[str, Any]) -> None:
        say(_line(row))

    threads = torch.get_num_threads()
    torch.set_num_threads(cores())  # as the first stage of a sweep does it
    try:
        train_teacher(
            recipe, plan.results, plan.data_dir, _device(), on_epoch, say, replacing=replacing
        )
    finally:
        torch.set_num_threads(threads)


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def default_value(key: str, dimension: Dimension) -> Value:
    """The value of a dimension where nobody chooses one: the first choice; of a range the
    setting's own default where it lies inside, else its low end."""
    if dimension.choices is not None:
        return dimension.choices[0]
    assert dimension.low is not None
    assert dimension.high is not None
    default = setting_of(key).default
    if isinstance(default, int | float) and dimension.low <= default <= dimension.high:
        return default
    return dimension.low


@explained
def _run(
    plan: Plan, config: TrialConfig, say: Say, profile: Path | None, key: str | None = None
) -> dict[str, Any]:
    if profile is not None:
        _check_profile(profile, config)
    missing = plan.missing(config)
    if missing:
        open_folder(plan.results).check_writable()
    for note in plan.notes:
        say(note)
    for recipe in missing:
        say(f"training the teacher {recipe.name} first")
        _train_teacher(plan, recipe, say)
    plan = plan.with_teachers() if missing else plan
    for remark in plan.remarks:
        say(remark)
    # As in a sweep: the number of threads decides the last bits of a sum.
    torch.set_num_threads(int(plan.cpus))
    job = plan.job(config, trial_id="trial", attempt=1)
    run = Run(job, _device(), keep=False)
    key = key or plan.key(config)
    say(f"{config.method} on {config.dataset}: {run.model}, config_key {key}")
    if why := run.refusal():
        say(why)
        return run.row("infeasible", why) | {"config_key": key}
    while not run.finished:
        epoch = run.training.epoch + 1
        watched = profile is not None and epoch == PROFILED_EPOCH
        try:
            with _profiler(profile, say) if watched else nullcontext():
                row = run.run_epoch()
        except Exception:
            if profile is not None and epoch < PROFILED_EPOCH:
                say(f"no profile: the trial ended before epoch {PROFILED_EPOCH}")
            raise
        say(_line(row))
    row = run.row("completed") | {"config_key": key}
    if "violations" in row:
        values = {name: value_of(row, name) for name in json.loads(row["violations"])}
        say(f"violates its study's constraints: {named(run.judge.constraints, values)}")
    return row


def _check_profile(path: Path, config: TrialConfig) -> None:
    """Refuses a profile that could not be taken, before anything is trained for it.

    Raises:
        UserError: too few epochs, or a file that cannot be written.
    """
    if config.epochs < PROFILED_EPOCH:
        raise UserError(
            f"--profile: needs at least {PROFILED_EPOCH} epochs; the first one warms up"
        )
    try:
        # As the profiler does: beside the file, and then under its name.
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise UserError(f"--profile {path}: cannot be written: {error.strerror}") from error


def _profiler(path: Path | None, say: Say) -> AbstractContextManager[Any]:
    """Writes a Chrome trace and says where the time went."""
    assert path is not None
    activities = [torch.profiler.ProfilerActivity.CPU]
    by = "self_cpu_time_total"
    if torch.cuda.is_available():
        activities.append(torch.profiler.ProfilerActivity.CUDA)
        by = "self_device_time_total"

    def write(profiler: torch.profiler.profile) -> None:
        profiler.export_chrome_trace(str(path))
        say(profiler.key_averages().table(sort_by=by, row_limit=15, max_name_column_width=40))
        say(f"trace of epoch {PROFILED_EPOCH}: {path}")

    return torch.profiler.profile(activities=activities, on_trace_ready=write)


def _line(row: dict[str, Any]) -> str:
    score = row["val_score"]
    val = f"  val {percent(score, row['metric'])}" if score is not None else ""
    terms = "  ".join(f"{name} {value:.4f}" for name, value in row["term_losses"].items())
    return (
        f"epoch {row['epoch']:3d}  loss {row['train_loss']:.4f} ({terms}){val}"
        f"  {row['images_per_second']:.0f} images/s"
    )


def print_line(text: str) -> None:
    """Says a line at once, also into a pipe."""
    print(text, file=sys.stdout, flush=True)

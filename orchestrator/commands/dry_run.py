"""`kdsweep run STUDY --dry-run`: what a sweep would train, and what it had to guess."""

import os
from collections.abc import Iterator
from pathlib import Path

from orchestrator.commands.dataset_facts import GUESSED_FLIP, guesses_flip
from orchestrator.commands.printing import print_pairs
from orchestrator.sweeps.plan import Plan
from orchestrator.sweeps.samplers import make_sampler
from orchestrator.sweeps.sweep import Options, prepared
from search_spaces.dimension import Dimension
from search_spaces.spec import LISTS, Study
from trainables.config import TrialConfig
from trainables.data.notes import listed, plural
from trainables.errors import UserError
from trainables.files import open_folder
from trainables.recipes import Filed, Recipe, lineage
from trainables.teachers.teacher import made_how, trained_how

_SHOWN = 20


def dry_run(study: Study, options: Options, name: str | None) -> int:
    """Checks what `sweep.run` checks before it starts anything, and says what it would run.

    In place of a probe file, the rights of a local results folder are looked at. Images of
    folders are kept in the data cache once they are decoded, as by every verb that reads them.

    Args:
        study, options, name: as for `sweep.run`.

    Raises:
        UserError: as `sweep.run`.
    """
    plan = prepared(study, options, name)
    make_sampler(plan.study, 0)
    _check_rights(plan.results)
    configs = [config for _, config in plan.corners()]
    data = plan.dataset
    image = "x".join(map(str, data.image_shape))
    size = f"{len(data.train):,} training images {image}, {data.num_classes} classes"
    facts = {
        "sweep": plan.sweep,
        "data": f"{data.name}: {size}",
        **{f"teacher {one.name}{_role(plan, one)}": _teacher(plan, one) for one in _teachers(plan)},
        "students": listed(list(dict.fromkeys(map(plan.student, configs))), _SHOWN),
        "trials": _trials(plan.study),
        "sampler": _sampler(plan.study),
        "objectives": ", ".join(f"{key} {goal}" for key, goal in plan.study.objectives.items()),
        "constraints": ", ".join(f"{key} {at}" for key, at in plan.study.constraints.items()),
        "results": str(open_folder(plan.results) / plan.sweep),
    }
    print_pairs("would run", {key: value for key, value in facts.items() if value})
    print_pairs("dimensions", {key: _values(one) for key, one in plan.study.space.items()})
    if name is None and plan.sweep != study.name:
        print(f"guess: name: {plan.sweep}, since something there is called {study.name}")
    for guess in _guesses(plan, study, options, configs):
        print(f"guess: {guess}")
    print("nothing was started, no result was written")
    return 0


def _check_rights(results: str) -> None:
    folder = open_folder(results)
    path = Path(folder.path)
    there = next(one for one in (path, *path.parents) if one.exists()) if folder.is_local else None
    if there and not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"results folder '{folder}' is not writable: no right to write in {there}")


def _teachers(plan: Plan) -> list[Recipe | Filed]:
    """Those of trials, and those above them first; each once."""
    named = plan.teachers.named.values()
    return list({one.file: one for top in named for one in lineage(top)}.values())


def _role(plan: Plan, teacher: Recipe | Filed) -> str:
    """``, wide`` after the name of a further teacher; nothing after others."""
    named = plan.teachers.named
    roles = [role for role, one in plan.study.teachers.items() if named.get(one.label) == teacher]
    return "".join(f", {role}" for role in roles)


def _teacher(plan: Plan, teacher: Recipe | Filed) -> str:
    if card := plan.cards.get(teacher.file):
        return f"in the store: {teacher.file}, {card.tested} on the test set ({made_how(card)})"
    assert isinstance(teacher, Recipe)
    needed = any(teacher.key == one.key for one in plan.missing())
    when = "to be trained first" if needed else "not needed, since those below it are there"
    return f"{when}: {trained_how(teacher.config)}"


def _trials(study: Study) -> str:
    points = len(study.first_points())
    configs = study.budget(points)
    text = f"{plural(configs, 'config')} x {plural(study.repeats, 'seed')}"
    text += f" = {plural(configs * study.repeats, 'training')}"
    if not study.asks_sampler and configs < points:
        text += f", of {points:,} points"
    return text


def _sampler(study: Study) -> str:
    points = len(study.first_points())
    if study.sampler == "grid":
        return f"grid of {len(study.space.grid()):,} points"
    if study.sampler in LISTS or not study.space:
        return f"none: {points:,} listed"
    return f"{study.sampler}, seed {study.sampler_seed}; first {points:,} points that are given"


def _values(dimension: Dimension) -> str:
    """``1 to 20, log, where method is kd``."""
    if dimension.choices is not None:
        text = listed(dimension.choices, _SHOWN)
    else:
        text = f"{dimension.low:.12g} to {dimension.last:.12g}"
        text += f" in steps of {dimension.step:.12g}" if dimension.step else ""
    text += ", log" if dimension.log else ""
    for key, allowed in dimension.when.items():
        text += f", where {key} is {' or '.join(map(str, allowed))}"
    return text


def _guesses(
    plan: Plan, study: Study, options: Options, configs: list[TrialConfig]
) -> Iterator[str]:
    """What nobody has said, and what of it would be taken."""
    if options.data_dir is None and plan.data_dir:
        yield f"data: {plan.data_dir}, as KDSWEEP_DATA says"
    if "objectives" not in study.model_fields_set:
        yield f"objectives: {', '.join(plan.study.objectives)}, since the study says none"
    given = {*study.fixed, *study.space}.union(*(one.settings for one in study.pairs.values()))
    implied = sorted({one.compression for one in configs if one.chain})
    if "compression" not in given and implied:
        yield f"compression: {', '.join(implied)}, as its amount is given"
    timed = sorted({one.latencies for one in configs})
    if "latencies" not in given and timed != ["eager"]:
        yield f"latencies: {', '.join(timed)}, as objectives or constraints ask"
    if guesses_flip(plan.dataset) and "flip" not in given:
        yield f"flip: {GUESSED_FLIP}"
    if any(one.precision == "auto" for one in configs):
        yield "precision: bf16 for a network that it makes faster where it runs, else fp32"
    if options.gpus_per_trial is None:
        yield "gpus-per-trial: where there are GPUs, by the memory that the largest trial takes"
    yield from plan.remarks

"""`kdsweep explain`: why a teacher and its students answer as they do, as a picture."""

import json
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.commands.networks import say
from trainables.errors import UserError, unknown

_UNASKED = 3
"""At most so many students where none is named."""


def explain(options: Namespace) -> int:
    from orchestrator.results.picture_file import check_picture

    path = Path(options.output).expanduser()
    check_picture(path)
    explainers = _explainers(options.explainers, options.set)
    if options.images < 1:
        raise UserError(f"--images {options.images}: expected a whole number >= 1")
    from orchestrator.results import views
    from orchestrator.results.record import data_folder
    from orchestrator.results.store import Store
    from orchestrator.sweeps.sweep import absolute

    results = absolute(options.results)
    data_dir = options.data or data_folder(Store(results, options.sweep))
    frame = views.trials(results, [options.sweep])
    rows = _chosen(frame, options.sweep, options.trials)
    _draw(path, options, results, data_dir, rows, explainers)
    print(path)
    return 0


def _explainers(text: str, assignments: Sequence[str]) -> dict[str, Any]:
    """The configs of the named explainers, by name.

    Raises:
        UserError: no such explainer, no such setting, or a value that is none of its.
    """
    from search_spaces.dimension import check_known
    from search_spaces.load import assigned
    from trainables.attribution.registry import (
        all_explainer_settings,
        explainer_of,
        parse_explainers,
        resolve_explainer_settings,
        resolve_explainers,
    )

    values = dict(map(assigned, assignments))
    known = all_explainer_settings(parse_explainers(text))
    for key in values:
        if explainer_of(key):
            check_known(key)
        elif known:
            raise unknown("key", key, known)
    return resolve_explainers(text, resolve_explainer_settings(text, values))


def _chosen(frame: Any, sweep: str, asked: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of the trials that are meant, in the order in which they were named.

    Raises:
        UserError: no such trial, one that has not completed, one named twice, or trials of more
            than one teacher.
    """
    rows = {row["trial_id"]: row for row in frame.to_dict("records")}
    done = {name: row for name, row in rows.items() if row["status"] == "completed"}
    for name in asked:
        if name not in rows:
            raise unknown("trial", name, list(rows))
        if name not in done:
            raise UserError(f"trial '{name}' has no student: it has not completed")
    if len(set(asked)) < len(asked):
        raise UserError(f"explain: a trial is named twice in {' '.join(asked)}")
    if not done:
        raise UserError(f"sweep '{sweep}' has no finished trial to explain")
    chosen = [done[name] for name in asked] or _best(list(done.values()))
    teachers = {_text(row["teacher"]) for row in chosen} - {""}
    if len(teachers) > 1:
        raise UserError(
            f"explain: trials of one teacher stand beside each other, and these have "
            f"{' and '.join(sorted(teachers))}; name those of one"
        )
    return chosen


def _best(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of each method the trial that is best on validation, the best methods first."""
    with_teacher = [row for row in rows if _text(row["teacher"])]
    first = _text(with_teacher[0]["teacher"]) if with_teacher else ""
    best: dict[str, dict[str, Any]] = {}
    ranked = sorted(rows, key=lambda row: -_number(row["val_score"], -1.0))
    for row in ranked:
        if _text(row["teacher"]) in ("", first):
            best.setdefault(str(row["method"]), row)
    chosen = [*best.values()][:_UNASKED]
    names = " ".join(row["trial_id"] for row in chosen)
    say(f"no trial named: {names}, the best on validation, one of a method")
    return chosen


@dataclass(frozen=True, kw_only=True)
class _Subject:
    """A network that is explained: its card, its title, and the `ig` that it learned under."""

    card: Any
    network: Any
    title: tuple[str, ...]
    ig: Any = None


def _draw(
    path: Path,
    options: Namespace,
    results: str,
    data_dir: str | None,
    rows: Sequence[dict[str, Any]],
    explainers: Mapping[str, Any],
) -> None:
    from orchestrator.results.explanation_pictures import draw_explanations
    from orchestrator.results.record import teacher_file
    from orchestrator.results.store import Store
    from trainables.attribution.pictured import first_of_each_class
    from trainables.data.dataset import Images
    from trainables.exporting import dataset_of
    from trainables.teachers.teacher import load_teacher

    teacher = next((name for row in rows if (name := _text(row["teacher"]))), None)
    file = teacher_file(Store(results, options.sweep), teacher) if teacher else None
    if file is None:
        say("no teacher: these trials have none")
    subjects = _subjects(results, options.sweep, file, rows)
    dataset = dataset_of(subjects[0].card, data_dir)
    test = dataset.read_test()
    chosen, classes = first_of_each_class(test, dataset.classes, options.images)
    images = Images(test.images[chosen], test.labels[chosen])
    blocks, overlays = [], []
    effort = _effort(len(images), len(subjects), explainers)
    for one in subjects:
        say(f"explaining {one.card.name}")
        block = _block(one, images.images, classes, dataset, explainers, effort)
        if one.ig and file:
            taught = load_teacher(results, file, "cpu", dataset)
            block.columns.extend(_overlays(taught, dataset, images, one.ig))
            overlays.append(_said_of(one))
        blocks.append(block)
    effort.close()
    left = len(dataset.classes) - len(classes)
    more = f"; {left} more classes are left out" if left else ""
    note = (
        f"The first image of each class in the test set{more}. All networks are explained for the "
        "image's own class.\nEvery map is scaled by its own largest absolute value. "
        "attention: mean over a stage's channels of squared activations."
    )
    head = f"{options.sweep}: {dataset.name}"
    note = "\n".join([note, *overlays])
    draw_explanations(images.images.numpy(), classes, blocks, path, head, note)


def _subjects(
    results: str, sweep: str, teacher: str | None, rows: Sequence[dict[str, Any]]
) -> list[_Subject]:
    """The teacher, where there is one, and the students of trials."""
    from trainables.students import read_student, read_teacher

    found = []
    if teacher is not None:
        card, network = read_teacher(results, teacher)
        title = _title(f"teacher {card.name}", card, f"{card.params:,} parameters")
        found.append(_Subject(card=card, network=network, title=title))
    for row in rows:
        card, network = read_student(results, sweep, row["trial_id"])
        smaller = _number(row["compression_params"], 0.0)
        size = f"{smaller:.3g}x fewer parameters" if smaller else f"{card.params:,} parameters"
        title = _title(f"{card.name}: {row['method']}", card, size)
        found.append(_Subject(card=card, network=network, title=title, ig=_ig_of(row)))
    return found


def _effort(images: int, networks: int, explainers: Mapping[str, Any]) -> Any:
    """Says how much there is to do, and counts what is done of it."""
    from trainables.attribution.costs import Effort, in_words, passes_of
    from trainables.data.notes import plural

    passes = images * networks * passes_of(explainers)
    if explainers:
        say(
            f"{plural(images, 'image')}, {plural(networks, 'network')}, by "
            f"{in_words(explainers)}: {plural(passes, 'pass')} of an image"
        )
    return Effort("explaining", passes)


def _block(
    subject: _Subject,
    images: Any,
    classes: Sequence[str],
    dataset: Any,
    explainers: Mapping[str, Any],
    effort: Any,
) -> Any:
    """One network's part of the picture."""
    from orchestrator.results.explanation_pictures import Block, Column
    from trainables.attribution.pictured import explained

    card, network = subject.card, subject.network
    shown = explained(card, network, images, classes, dataset.classes, explainers, effort)
    columns = [
        Column(title=name, values=maps.numpy(), signed=signed)
        for name, (maps, signed) in shown.maps.items()
    ]
    columns += [
        Column(title=f"attention {number}", values=maps.numpy())
        for number, maps in enumerate(shown.attention, 1)
    ]
    if not columns:
        raise UserError(f"{card.name}: no explainer, and no feature maps to show instead")
    return Block(title=subject.title, said=shown.said, columns=columns)


def _ig_of(row: Mapping[str, Any]) -> Any:
    """The settings of a trial's overlays; None of one that has none."""
    from trainables.methods.registry import config_of, parse_method

    if "ig" not in parse_method(str(row["method"])):
        return None
    return config_of("ig", json.loads(row["config"]))


def _overlays(teacher: Any, dataset: Any, images: Any, config: Any) -> list[Any]:
    """Columns with the images as the trial learned from such, under the teacher's maps."""
    from orchestrator.results.explanation_pictures import Column
    from trainables.teachers.overlaid import overlaid

    if config.alignment == "shuffled" and len(images) < 2:
        say("no overlay: of one image alone there is no other whose map it could have")
        return []
    return [
        Column(title=f"overlay, e = {exponent:g}", values=found.numpy())
        for exponent, found in overlaid(teacher, dataset, images, config).items()
    ]


def _said_of(subject: _Subject) -> str:
    """What the overlays of a trial are."""
    ig = subject.ig
    whose = "another image's" if ig.alignment == "shuffled" else "its own"
    return (
        f"overlay: in training {subject.card.name} saw training images like these test images, "
        f"each with a probability of {ig.probability:.3g} in every epoch:\n"
        f"{ig.share:g} of the image, the rest {whose} map by the teacher's integrated gradients "
        f"({ig.steps} steps from {ig.baseline}) to a power e from 1 to {ig.exponent:g}."
    )


def _title(name: str, card: Any, size: str) -> tuple[str, ...]:
    return name, card.blueprint.label, f"{card.tested} on the test set", size


def _text(value: Any) -> str:
    """Of a cell of a frame, where nothing may be None or NaN."""
    return value if isinstance(value, str) else ""


def _number(value: Any, missing: float) -> float:
    found = isinstance(value, int | float) and value == value
    return float(value) if found else missing

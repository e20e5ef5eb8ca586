"""`kdsweep explain`: why a teacher and its students answer as they do, as a picture."""

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from orchestrator.commands.networks import say
from trainables.errors import UserError, unknown

_UNASKED = 3
"""At most so many students where none is named."""


def explain(options: Namespace) -> int:
    from trainables.attribution.registry import parse_explainers

    path = Path(options.output).expanduser()
    names = parse_explainers(options.explainers)
    if options.images < 1:
        raise UserError(f"--images {options.images}: expected a whole number >= 1")
    _check(path)
    from orchestrator.results import views
    from orchestrator.results.record import data_folder
    from orchestrator.results.store import Store
    from orchestrator.sweeps.sweep import absolute

    results = absolute(options.results)
    data_dir = options.data or data_folder(Store(results, options.sweep))
    frame = views.trials(results, [options.sweep])
    rows = _chosen(frame, options.sweep, options.trials)
    _draw(path, options, results, data_dir, rows, names)
    print(path)
    return 0


def _check(path: Path) -> None:
    """Refuses a file that could not be written, before anything is loaded for it.

    Raises:
        UserError: another ending, or no such folder.
    """
    endings = (".png", ".svg", ".pdf")
    if path.suffix not in endings:
        raise UserError(f"-o {path}: expected a file that ends in {', '.join(endings)}")
    if not path.parent.is_dir():
        raise UserError(f"-o {path}: there is no folder {path.parent}")


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


def _draw(
    path: Path,
    options: Namespace,
    results: str,
    data_dir: str | None,
    rows: Sequence[dict[str, Any]],
    names: Sequence[str],
) -> None:
    from orchestrator.results.explanation_pictures import draw_explanations
    from orchestrator.results.record import teacher_file
    from orchestrator.results.store import Store
    from trainables.attribution.pictured import first_of_each_class
    from trainables.exporting import dataset_of
    from trainables.students import read_student, read_teacher

    found = []
    teacher = next((name for row in rows if (name := _text(row["teacher"]))), None)
    if teacher is not None:
        file = teacher_file(Store(results, options.sweep), teacher)
        card, network = read_teacher(results, file)
        size = f"{card.params:,} parameters"
        found.append((card, network, _title(f"teacher {card.name}", card, size)))
    else:
        say("no teacher: these trials have none")
    for row in rows:
        card, network = read_student(results, options.sweep, row["trial_id"])
        smaller = _number(row["compression_params"], 0.0)
        size = f"{smaller:.3g}x fewer parameters" if smaller else f"{card.params:,} parameters"
        found.append((card, network, _title(f"{card.name}: {row['method']}", card, size)))
    dataset = dataset_of(found[0][0], data_dir)
    test = dataset.read_test()
    chosen, classes = first_of_each_class(test, dataset.classes, options.images)
    images = test.images[chosen]
    blocks = []
    for card, network, title in found:
        say(f"explaining {card.name}")
        blocks.append(_block(card, network, title, images, classes, dataset, names))
    left = len(dataset.classes) - len(classes)
    more = f"; {left} more classes are left out" if left else ""
    note = (
        f"The first image of each class in the test set{more}. All networks are explained for the "
        "image's own class.\nEvery map is scaled by its own largest absolute value. "
        "attention: mean over a stage's channels of squared activations."
    )
    head = f"{options.sweep}: {dataset.name}"
    draw_explanations(images.numpy(), classes, blocks, path, head, note)


def _block(
    card: Any,
    network: Any,
    title: tuple[str, ...],
    images: Any,
    classes: Sequence[str],
    dataset: Any,
    names: Sequence[str],
) -> Any:
    """One network's part of the picture."""
    from orchestrator.results.explanation_pictures import Block, Column
    from trainables.attribution.pictured import explained

    shown = explained(card, network, images, classes, dataset.classes, names)
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
    return Block(title=title, said=shown.said, columns=columns)


def _title(name: str, card: Any, size: str) -> tuple[str, ...]:
    return name, card.blueprint.label, f"{card.tested} on the test set", size


def _text(value: Any) -> str:
    """Of a cell of a frame, where nothing may be None or NaN."""
    return value if isinstance(value, str) else ""


def _number(value: Any, missing: float) -> float:
    found = isinstance(value, int | float) and value == value
    return float(value) if found else missing

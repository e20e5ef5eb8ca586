"""`kdsweep teacher`: train, import, adopt and list teachers."""

import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

from orchestrator.commands.printing import print_table, rounded
from orchestrator.commands.running import options_of
from trainables.errors import UserError


def teacher(options: Namespace) -> int:
    if options.action == "list":
        return _list_teachers(options.results)
    made = {"import": _import_teacher, "adopt": _adopt_teacher, "train": _train_teachers}
    for card in made[options.action](options):
        print(
            f"teacher {card.name} ({card.blueprint.label}): {card.tested} on the test set of "
            f"{card.dataset}; {card.params:,} parameters; input mean {rounded(card.mean)}, "
            f"std {rounded(card.std)}"
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
    from trainables.adopting import adopt_student

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
        options_of(options),
        say=local.print_line,
        replacing=options.replace,
    )

"""What a sweep notes of its surroundings, and what it compares with that when it goes on."""

from collections.abc import Mapping
from typing import Any

from orchestrator.results.record import TEACHERS, add_note, read_record, write_record
from orchestrator.results.store import SCHEMA_VERSION, Store
from orchestrator.sweeps.plan import Plan
from trainables.errors import UserError
from trainables.teachers.teacher import check_fingerprint
from trainables.version import code_version, versions

VERSION = "schema_version"
"""Key of the notes: of the store as the sweep began. Sweeps without it kept no proposals."""


def write_study(plan: Plan) -> None:
    """``study.yaml``; what the checks of this file compare is noted here."""
    notes = {
        VERSION: SCHEMA_VERSION,
        "data_dir": plan.data_dir,
        "data_fingerprint": plan.dataset.fingerprint,
        **_teacher_files(plan),
        TEACHERS: _fingerprints(plan),
        "code_version": code_version(),
        "versions": versions(),
    }
    write_record(Store(plan.results, plan.sweep), plan.study, notes)


def note_teachers(plan: Plan) -> None:
    """Notes which teachers the sweep has, those that it trained itself too.

    Raises:
        UserError: one is another than is noted already.
    """
    store = Store(plan.results, plan.sweep)
    notes = read_record(store).notes
    check_teachers(plan, notes)
    noted = notes.get(TEACHERS, {})
    if not _fingerprints(plan).items() <= noted.items():
        add_note(store, TEACHERS, noted | _fingerprints(plan))


def check_teachers(plan: Plan, notes: Mapping[str, Any]) -> None:
    """Refuses to go on with other teachers than those that the sweep has had."""
    for file, expected in notes.get(TEACHERS, {}).items():
        if file in plan.cards:
            check_fingerprint(plan.results, file, plan.cards[file], expected)


def check_data(plan: Plan, notes: Mapping[str, Any]) -> None:
    """Refuses to go on with other data than a sweep began with."""
    if plan.dataset.fingerprint != notes["data_fingerprint"]:
        raise UserError(
            f"dataset '{plan.study.dataset}' is not the one that sweep '{plan.sweep}' began with: "
            f"its fingerprint is {plan.dataset.fingerprint[:12]}, "
            f"expected {notes['data_fingerprint'][:12]}"
        )


def _teacher_files(plan: Plan) -> dict[str, Any]:
    files = {name: teacher.file for name, teacher in plan.teachers.named.items()}
    if plan.study.pairs:
        return {"teacher_files": files}
    return {"teacher_file": next(iter(files.values()), None)}


def _fingerprints(plan: Plan) -> dict[str, str]:
    """Of the teachers that are there, by file."""
    return {file: card.fingerprint for file, card in sorted(plan.cards.items())}

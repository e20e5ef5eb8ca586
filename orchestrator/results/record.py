"""``study.yaml`` of a sweep: its study as it began, and what it found around it.

People read this file, and some edit it. Beside the study therefore stands its record, one line of
JSON with a digest, by which an edit is seen and the changed key is named.
"""

import contextlib
import hashlib
import json
import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from orchestrator.results.store import Store
from search_spaces.load import NOTES, formed_study, parse_study
from search_spaces.reading import read_yaml
from search_spaces.spec import Study
from trainables.errors import UserError

log = logging.getLogger(__name__)

TEACHERS = "teacher_fingerprints"
"""Key of the notes: the fingerprints of the sweep's teachers, by file."""

_ABSENT = object()
_HEADER = """\
# The study of this sweep as it began. `kdsweep resume` refuses it where it was edited: for other
# settings begin a new sweep, by `kdsweep run` with a copy of this file.
"""


@dataclass(frozen=True)
class Record:
    """What a sweep knows of its own beginning.

    Attributes:
        study: as it began.
        sweep: the name under which it began; its trials are called by it, whatever its folder
            is called now.
        notes: what was found then: ``data_dir``, ``data_fingerprint``, versions, teachers.
    """

    study: Study
    sweep: str
    notes: Mapping[str, Any]


def write_record(store: Store, study: Study, notes: Mapping[str, Any]) -> None:
    """Writes ``study.yaml`` of a sweep that begins.

    Raises:
        OSError: it could not be written.
    """
    content, record = _content_of(study), _record_of(study)
    content[NOTES] = {
        "sweep": store.sweep,
        **notes,
        "study": record,
        "study_digest": _digest(record),
    }
    _save(store, content)


def add_note(store: Store, key: str, value: Any) -> None:
    """Adds to the notes of a sweep what became known after it began.

    Raises:
        OSError: it could not be written.
    """
    content = _content(store)
    content[NOTES][key] = value
    _save(store, content)


def _save(store: Store, content: Mapping[str, Any]) -> None:
    store.save_study(_HEADER + yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


def read_record(store: Store) -> Record:
    """The record of a sweep, if its study still is what it was.

    Comments, white space, the order of keys and defaults that are written out are no edit; what
    follows goes on as it began.

    Raises:
        UserError: no such sweep; its ``study.yaml`` is missing or damaged; a key was changed.
    """
    content = _content(store)
    notes = content.pop(NOTES, None)
    if notes is None:
        raise UserError(f"sweep '{store.sweep}': key '{NOTES}' is missing in its study.yaml")
    sweep = _checked(store, notes)
    now = _parsed(store, content)
    if "study" not in notes and "study_digest" not in notes:
        log.warning(
            "%s: an older version began this sweep and kept no record of its study; if study.yaml "
            "was edited since then, nobody notices",
            store.sweep,
        )
        return Record(now, sweep, notes)
    record = notes.get("study")
    if not isinstance(record, str) or _digest(record) != notes.get("study_digest"):
        raise _damaged(store, f"the record in '{NOTES}.study' does not match its digest")
    began = _parsed(store, json.loads(record))
    for key, before, after in _differences(_dump(began), _dump(now)):
        raise UserError(
            f"sweep '{store.sweep}': {key} {_was(before, after)} in its study.yaml; undo the edit, "
            f"or begin a new sweep by `kdsweep run {store.folder}/study.yaml --name NAME`"
        )
    return Record(began, sweep, notes)


def data_folder(store: Store) -> str | None:
    """Where the data of a sweep lay when it began; None where its file does not tell.

    Raises:
        UserError: no such sweep, or its ``study.yaml`` cannot be read.
    """
    found = _noted(store).get("data_dir")
    return found if isinstance(found, str) else None


def teacher_file(store: Store, name: str) -> str:
    """The file of a teacher that a sweep's rows call ``name``, without its ending.

    A teacher that the sweep trained is filed under its recipe, and called by its model. In a sweep
    that did not note its files the name is the file's.

    Raises:
        UserError: as `data_folder`.
    """
    notes = _noted(store)
    files = notes.get("teacher_files")
    found = files.get(name) if isinstance(files, dict) else notes.get("teacher_file")
    return found if isinstance(found, str) else name


def _noted(store: Store) -> dict[str, Any]:
    notes = _content(store).get(NOTES)
    return notes if isinstance(notes, dict) else {}


def read_study(store: Store) -> Study:
    """The study of a sweep as its file has it, for readers of results.

    One that is as it began was checked then, and is not again: that takes torch.

    Raises:
        UserError: no such sweep, or its study cannot be read by this version.
    """
    content = _content(store)
    notes = content.get(NOTES)
    own = {key: content[key] for key in content if key in Study.model_fields}
    if isinstance(notes, dict):
        with contextlib.suppress(UserError):
            study = formed_study(own)
            if _digest(_record_of(study)) == notes.get("study_digest"):
                return study
    return _parsed(store, own)


def _content(store: Store) -> dict[str, Any]:
    where = f"{store.folder}/study.yaml"
    content = read_yaml(store.read_study(), where)
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        kind = "is empty" if content is None else "is no study"
        raise UserError(f"{where} {kind}: expected keys and values; put it back as it was")
    return content


def _checked(store: Store, notes: Any) -> str:
    """The name under which the sweep began."""
    if not isinstance(notes, dict):
        raise _damaged(store, f"'{NOTES}' has no keys and values")
    for key, kinds in {
        "sweep": (str,),
        "data_dir": (str, type(None)),
        "data_fingerprint": (str,),
    }.items():
        if not isinstance(notes.get(key, _ABSENT), kinds):
            said = "is missing" if key not in notes else f"is {notes[key]!r:.60}"
            raise _damaged(store, f"'{NOTES}.{key}' {said}")
    fingerprints = notes.get(TEACHERS, {})
    if not isinstance(fingerprints, dict):
        raise _damaged(store, f"'{NOTES}.{TEACHERS}' is {fingerprints!r:.60}")
    return Store(store.results, notes["sweep"]).sweep


def _damaged(store: Store, reason: str) -> UserError:
    return UserError(
        f"sweep '{store.sweep}': its study.yaml is damaged: {reason}; put it back as it was"
    )


def _parsed(store: Store, content: Mapping[str, Any]) -> Study:
    try:
        return parse_study(content)
    except UserError as error:
        reason = str(error).removeprefix("study: ")
        raise UserError(f"sweep '{store.sweep}': study.yaml: {reason}"[:290]) from error


def _content_of(study: Study) -> dict[str, Any]:
    return study.model_dump(mode="json", exclude_defaults=True)


def _record_of(study: Study) -> str:
    # In the written order, in which dimensions are drawn.
    return json.dumps(_content_of(study), separators=(",", ":"))


def _digest(record: str) -> str:
    return hashlib.sha256(record.encode()).hexdigest()[:16]


def _dump(study: Study) -> dict[str, Any]:
    return study.model_dump(mode="json", exclude_none=True)


def _differences(before: Any, after: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Every key whose value differs, with both values."""
    if isinstance(before, dict) and isinstance(after, dict):
        for name in [*after, *(name for name in before if name not in after)]:
            inner = f"{key}.{name}" if key else str(name)
            yield from _differences(before.get(name, _ABSENT), after.get(name, _ABSENT), inner)
    elif not _same(before, after):
        yield key, before, after


def _same(before: Any, after: Any) -> bool:
    if isinstance(before, list) and isinstance(after, list):
        return len(before) == len(after) and all(map(_same, before, after))
    return bool(before == after) and isinstance(before, bool) == isinstance(after, bool)


def _was(before: Any, after: Any) -> str:
    if before is _ABSENT:
        return f"was added ({_short(after)})"
    if after is _ABSENT:
        return f"was removed (it was {_short(before)})"
    return f"was {_short(before)} and is {_short(after)} now"


def _short(value: Any) -> str:
    text = re.sub(r"\s+", " ", json.dumps(value, ensure_ascii=False))
    return text if len(text) <= 48 else f"{text[:22]}...{text[-22:]}"

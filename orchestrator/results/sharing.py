"""Trials without a teacher belong to every teacher of their sweep whose student they are.

A sweep over several pairs of networks trains a plain student once and answers its twins beside
other teachers from that row (the teacher is no part of its `config_key`). The row names the
teacher beside which it was trained; a table of another teacher wants it as well.
"""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from orchestrator.results.chains import model_of, told
from orchestrator.results.front import common
from trainables.columns import TRIALS
from trainables.compression.registry import CHOICES
from trainables.errors import UserError
from trainables.methods.registry import needs_teacher
from trainables.trial_settings import TEACHER

_STUDENT = ["sweep", "dataset", "model", "steps"]
# How a teacher's trials ask for their student.
_REQUEST = ["teacher", "student_requested", "compression_kind", "compression_requested"]
# What else a row says of its teacher. What its method reads of teachers is of no other method.
_READ = ["attribution_maps", "teachers"]
_FACTS = [
    name
    for name, column in TRIALS.items()
    if column.role == "fact" and "teacher" in column.needs and name not in (*_REQUEST, *_READ)
]

# How much smaller than the teacher a student is, and by what of it.
_FACTORS = {
    "compression_params": "params",
    "compression_macs": "macs",
    "compression_bytes": "size_bytes",
}


def for_every_teacher(frame: pd.DataFrame) -> pd.DataFrame:
    """The trials, and copies of those that read no teacher for the other teachers.

    Args:
        frame: rows of ``trials``.

    Returns:
        Its rows, and a copy of each completed trial of a method that reads no teacher for every
        other teacher of the sweep that has the same student, changed by the same steps: with that
        teacher's facts, and as a trial of its own would ask for the student. Where a teacher has
        such trials of its own, only further seeds of their configs are copied.
    """
    steps = [told(*row) for row in zip(frame["compression_kind"], frame["config"], strict=True)]
    known = frame.assign(model=frame["student"].map(model_of), steps=steps)
    requests = known.dropna(subset=["student", "teacher"]).drop_duplicates(
        [*_STUDENT, *_REQUEST], ignore_index=True
    )[[*_STUDENT, *_REQUEST, *_FACTS, *_FACTORS.values(), "config"]]
    alone = frame["method"].map(_reads_no_teacher, na_action="ignore").eq(True)
    alone &= ~frame["config"].map(_begins_with_teacher, na_action="ignore").eq(True)
    plain = known[alone & (frame["status"] == "completed")]
    copies = plain.merge(requests, on=_STUDENT, suffixes=("_own", ""))
    same = [copies[key].eq(copies[f"{key}_own"]) | _both_missing(copies, key) for key in _REQUEST]
    copies = copies[~pd.concat(same, axis=1).all(axis=1)]
    copies = copies.assign(config=[_asking(row) for row in copies.to_dict("records")])
    for factor, size in _FACTORS.items():  # steps may leave the students of a request unequal
        copies[factor] *= (copies[size] / copies[f"{size}_own"]).fillna(1)
        copies[size] = copies[f"{size}_own"]
    own: defaultdict[tuple[Any, ...], set[str]] = defaultdict(set)
    for place, settings in zip(_places(plain), map(_settings, plain["config"]), strict=True):
        own[place].add(settings)
    wanted = [
        settings in own.get(place, {settings})
        for place, settings in zip(_places(copies), map(_settings, copies["config"]), strict=True)
    ]
    copies = copies.loc[wanted, frame.columns]
    return pd.concat([frame, copies], ignore_index=True) if len(copies) else frame


def _places(trials: pd.DataFrame) -> Iterator[tuple[Any, ...]]:
    """Whose trials they are, for which request and method."""
    columns = trials[["sweep", "dataset", *_REQUEST, "method"]]
    filled = columns.astype(object).where(columns.notna(), None)
    yield from filled.itertuples(index=False, name=None)


def _settings(config: Any) -> str:
    """What repeats of a config, and its confirmation, have in common."""
    return common(config, "seed", "split") if isinstance(config, str) else ""


def _reads_no_teacher(method: str) -> bool:
    try:
        return not needs_teacher(method)
    except UserError:  # a term of a package that is not installed here
        return False


def _begins_with_teacher(config: str) -> bool:
    return json.loads(config).get("start") == TEACHER


def _both_missing(copies: pd.DataFrame, key: str) -> pd.Series:
    return copies[key].isna() & copies[f"{key}_own"].isna()


def _asking(row: Mapping[Any, Any]) -> Any:
    """The config with the request of the teacher that the copy is for."""
    own, theirs = row["config_own"], row["config"]
    if not isinstance(own, str) or not isinstance(theirs, str):
        return own
    config = json.loads(own)
    kept = {key: value for key, value in config.items() if key not in _words(config)}
    asked = json.loads(theirs)
    return json.dumps(kept | {key: asked[key] for key in _words(asked)})


def _words(config: Mapping[str, Any]) -> list[str]:
    """The keys by which a config asks for its teacher and its student."""
    words = {"teacher", "student", "compression", *CHOICES}
    return [key for key in config if key.partition(".")[0] in words]

"""The weights in a file of somebody else's: found wherever they lie, and without running its code.

A file may hold several sets that could be meant: a network and its moving average, a student
beside its teacher. All are kept as `Candidate`, likely ones first; which one it is shows when the
architecture is known (`trainables.teachers.matching`).
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
from torch import Tensor

from trainables.errors import UserError
from trainables.teachers.facts import Statistics, find_class_names, find_statistics, metadata
from trainables.teachers.file_kinds import foreign, is_safetensors, safetensors_header
from trainables.teachers.inert_pickle import NotAPickle, Trap
from trainables.teachers.inert_values import fields
from trainables.teachers.shards import whole_file
from trainables.teachers.torch_file import Stored, as_stored, read_torch

_LENGTH = 170  # of a cause: with the name of the file a line stays below 300 characters
_DEPTH = 6

# Wrappers that may stand anywhere within a name.
_INNER = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"}
# What tools leave among the weights: thop's counters, AveragedModel's, calibration's.
_BYPRODUCTS = ("total_ops", "total_params", "n_averaged", "num_updates", "_extra_state")
_PASSED_OVER = re.compile(
    r"optimi[sz]er|optim(_|$)|sched|scaler|rng|callback|loops|lr_|amp$|grad", re.I
)
_WEIGHT = re.compile(r"weight|flat_param")
# A part of a network, and not what wraps one.
_PART = re.compile(r"(^|\.)(layer|stage|block|group|conv|feature|down|short)\w*\.", re.I)
# Whose weights they are, by a word in the path: the lower, the earlier it is tried. timm, too,
# takes the moving average where there is one.
_ROLES = (
    (re.compile(r"(^|[._])(\w*ema|swa|averaged?|shadow)([._]|$)", re.I), -2),
    (re.compile(r"(^|[._])best", re.I), -1),
    (
        re.compile(
            r"(^|[._])(\w*teachers?|[mt]_?net_t|model_t|net_t|t_net|t_model|target)([._]|$)"
        ),
        2,
    ),
    (re.compile(r"(^|[._])(init|initial|rewind|pretrained)([._]|$)", re.I), 3),
)


@dataclass(frozen=True)
class Candidate:
    """Weights that could be the network's.

    Attributes:
        place: where they lay: ``state_dict``, ``model.student``; empty where bare.
        tensors: by their names without what wraps them.
        beside: what lay beside the wrapped names.
        byproducts: what tools left among them, in words.
        ordered: the file keeps the order in which the modules were registered.
    """

    place: str
    tensors: Mapping[str, Stored]
    beside: Mapping[str, Stored]
    byproducts: tuple[str, ...]
    ordered: bool


@dataclass(frozen=True)
class Checkpoint:
    """What a file of weights holds.

    Attributes:
        file: as the user wrote it.
        weights: of the likeliest candidate, by their names without what wraps them.
        place: where these lay, in words; empty where bare.
        left_out: what was passed over, in words: ``total_ops (40)``.
        statistics: mean and deviation of the images in [0, 1], where the file tells them.
        class_names: in the order of the logits, where the file tells them.
        candidates: everything that could be meant, likely ones first.
    """

    file: str
    weights: dict[str, Tensor]
    place: str
    left_out: tuple[str, ...]
    statistics: Statistics | None
    class_names: tuple[str, ...] | None
    candidates: tuple[Candidate, ...]


def refusal(cause: str, file: str) -> UserError:
    """One line below 300 characters, the cause first."""
    cause = " ".join(cause.split())
    if len(cause) > _LENGTH:
        cause = f"{cause[: _LENGTH - 3]}..."
    name = file if len(file) <= 90 else f"{file[:30]}...{file[-57:]}"
    return UserError(f"{cause} (weights file '{name}')")


def read_checkpoint(file: str) -> Checkpoint:
    """Reads a file of weights; of its pickle nothing is called or imported.

    Args:
        file: what ``torch.save`` wrote, safetensors, one of several shards, their index, or the
            folder that holds them; told by content and not by the ending.

    Raises:
        UserError: it holds no weights, or they cannot be read; with the cause.
    """
    try:
        parts = whole_file(Path(file).expanduser())
        contents = [_content(path) for path in parts.files]
        parts.check([fields(content) or {} for content, _ in contents])
    except (NotAPickle, OSError, ValueError) as error:
        raise refusal(str(error) or type(error).__name__, file) from error
    content, ordered = contents[0]
    if len(contents) > 1:
        content = {
            key: value for held, _ in contents for key, value in (fields(held) or {}).items()
        }
    candidates = sorted(
        (
            candidate
            for place, tensors in _sets(content)
            for candidate in _unwrapped(place, tensors, ordered and len(contents) == 1)
        ),
        key=lambda candidate: _role(candidate.place),
    )
    if not candidates:
        raise refusal(_without_weights(content), file)
    first = candidates[0]
    told = {"file": content, "folder": parts.facts}
    return Checkpoint(
        file=file,
        weights={
            name: stored.tensor() for name, stored in first.tensors.items() if not stored.unusual
        },
        place=first.place,
        left_out=(*first.byproducts, *grouped(first.beside)),
        statistics=find_statistics(told),
        class_names=find_class_names(told),
        candidates=tuple(candidates),
    )


def grouped(names: Mapping[str, Any]) -> tuple[str, ...]:
    """Names by what they begin with, counted: ``criterion (2)``."""
    heads = Counter(name.partition(".")[0] for name in names)
    return tuple(f"{head} ({count})" for head, count in heads.items())


def _content(path: Path) -> tuple[Any, bool]:
    """What a file holds, and whether in the order in which it was put there."""
    if not path.is_file():
        raise ValueError(f"no such file: {path.name}")
    kind = foreign(path)
    if kind:
        raise ValueError(kind)
    try:
        if is_safetensors(path):
            header = safetensors_header(path)
            with safetensors.safe_open(path, "pt") as opened:
                tensors = {name: as_stored(opened.get_tensor(name)) for name in opened.keys()}  # noqa: SIM118
            return tensors | {" metadata": metadata(header)}, False
        return read_torch(path), True
    except Trap:
        raise
    except (NotAPickle, safetensors.SafetensorError, ValueError) as error:
        raise NotAPickle(f"damaged, or no file of weights: {error}") from error


def _sets(content: Any) -> Iterator[tuple[str, dict[str, Stored]]]:
    """Every mapping from names to tensors, with its place in the file."""
    level: list[tuple[str, Any]] = [("", content)]
    seen = set[int]()
    for _ in range(_DEPTH):
        below: list[tuple[str, Any]] = []
        for place, value in level:
            if isinstance(value, list | tuple):
                value = dict(enumerate(value)) if len(value) <= 64 else {}
            held = fields(value)
            if held is None or id(value) in seen or {"state", "param_groups"} <= held.keys():
                continue
            seen.add(id(value))
            if is_module(held):
                continue
            tensors = {
                name: stored
                for name, inner in held.items()
                if isinstance(name, str) and (stored := as_stored(inner)) is not None
            }
            if any(_WEIGHT.search(name) or stored.unusual for name, stored in tensors.items()):
                yield place, tensors
            below += [
                (f"{place}.{name}".removeprefix("."), inner)
                for name, inner in held.items()
                if not _PASSED_OVER.match(str(name))
            ]
        level = below


def is_module(held: Mapping[Any, Any]) -> bool:
    """Whether these are the attributes of a pickled ``nn.Module``."""
    return {"_parameters", "_modules", "_buffers"} <= held.keys()


def _unwrapped(place: str, tensors: dict[str, Stored], ordered: bool) -> Iterator[Candidate]:
    """A set as it is, and without each prefix under which most of a network could lie."""
    cleaned: dict[str, Stored] = {}
    byproducts = Counter[str]()
    for name, stored in tensors.items():
        first, *rest = [part for part in name.split(".") if part not in _INNER] or [name]
        parts = [first, *(part for part in rest if part != "module")]
        if parts[-1] in _BYPRODUCTS:
            byproducts[parts[-1]] += 1
        else:
            cleaned[".".join(parts)] = stored
    words = tuple(f"{name} ({count})" for name, count in byproducts.items())
    cleaned = _unmasked(cleaned)
    base, *inner = _prefixes(list(cleaned))
    for prefix in (base, *inner):
        inside = {name[len(prefix) :]: s for name, s in cleaned.items() if name.startswith(prefix)}
        beside = {
            name.removeprefix(base): s for name, s in cleaned.items() if not name.startswith(prefix)
        }
        where = f"{place}.{prefix}".strip(".")
        yield Candidate(where, inside, beside, words, ordered)


def _prefixes(names: list[str]) -> list[str]:
    """Prefixes, each with its dot, longest common one first; empty: nothing wraps the names."""
    counts = Counter(
        ".".join(parts[:depth]) + "."
        for name in names
        for parts in [name.split(".")]
        for depth in range(1, min(len(parts) - 1, 5))
    )
    common = [prefix for prefix, count in counts.items() if count == len(names)]
    least = max(3, min(20, len(names) // 12))
    inner = [
        prefix
        for prefix, count in counts.items()
        if least <= count < len(names) and not _PART.search(prefix)
    ]
    base = max(common, key=len, default="")
    return [base, *(prefix for prefix in inner if prefix.startswith(base)), *common[:-1]]


def _unmasked(tensors: dict[str, Stored]) -> dict[str, Stored]:
    """Weights that ``torch.nn.utils.prune`` keeps in two parts, multiplied."""
    whole = dict(tensors)
    for name in tensors:
        stem = name.removesuffix("_mask")
        if stem != name and f"{stem}_orig" in tensors:
            kept = whole.pop(f"{stem}_orig").tensor() * whole.pop(name).tensor()
            whole[stem] = Stored(size=tuple(kept.shape), dtype=kept.dtype, value=kept)
    return whole


def _role(place: str) -> int:
    return sum(weight for pattern, weight in _ROLES if pattern.search(place))


def _without_weights(content: Any) -> str:
    """Why a file without a set of tensors holds none."""
    held = fields(content)
    if held is None:
        return "a single tensor" if as_stored(content) else "holds no state dict of tensors"
    modules = [key for key, value in held.items() if is_module(fields(value) or {})]
    if is_module(held) or modules:
        where = f" under '{modules[0]}'" if modules else ""
        return f"a pickled module{where}: save its state_dict"
    if {"state", "param_groups"} <= held.keys():
        return "the state of an optimizer, no weights: save the network's state_dict"
    names = ", ".join(str(key) for key in list(held)[:6])
    return f"holds no state dict of tensors; there is: {names or 'nothing'}"

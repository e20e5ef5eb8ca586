"""What a checkpoint tells beside its weights: normalisation of images, names of classes."""

import json
import math
import re
from collections.abc import Iterator
from typing import TypeGuard

from torch import Tensor

from trainables.teachers.inert_values import array, fields
from trainables.teachers.torch_file import Stored

Statistics = tuple[tuple[float, ...], tuple[float, ...]]

_MEAN_AND_STD = re.compile(r"_?(?:(?:img|image|pixel|norm|input|data|rgb)_?)?(mean|std)s?", re.I)
_CLASS_LISTS = ("classes", "class_names", "classnames", "label_names", "category_names", "CLASSES")
_CLASS_MAPS = (
    "class_to_idx",
    "label2id",
    "idx_to_class",
    "id2label",
    "idx2label",
    "class_to_index",
)
_DEPTH = 6
# An optimizer's state may hold thousands of tensors, and running averages that are no images'.
_PASSED_OVER = re.compile(r"optim|sched|scaler|rng|callback|loops", re.I)


def find_statistics(content: object, channels: tuple[int, ...] = (1, 3, 4)) -> Statistics | None:
    """Mean and deviation of the images, in units of [0, 1]; None where not told, or not once.

    Args:
        content: of a file.
        channels: how many numbers there may be.
    """
    found: set[Statistics] = set()
    for held in _mappings(content):
        pairs: dict[str, dict[str, tuple[float, ...]]] = {}
        for key, value in held.items():
            stem, _, leaf = str(key).rpartition(".")
            match = _MEAN_AND_STD.fullmatch(leaf)
            numbers = _numbers(value) if match else None
            if match and numbers and len(numbers) in channels:
                kind = match[1].lower()
                name = f"{stem}.{leaf.lower().replace(kind, '')}"
                pairs.setdefault(name, {})[kind] = numbers
        for pair in pairs.values():
            if len(pair) == 2 and len(pair["mean"]) == len(pair["std"]):
                mean, std = pair["mean"], pair["std"]
                scale = 255.0 if max(*mean, *std, 0.0) > 4 else 1.0  # of 0 to 255
                if min(std) > 0 and max(mean) <= scale:
                    found.add((_scaled(mean, scale), _scaled(std, scale)))
    return found.pop() if len(found) == 1 else None


def find_class_names(content: object) -> tuple[str, ...] | None:
    """The names of the classes in the order of the logits; None where not told, or not once."""
    found: set[tuple[str, ...]] = set()
    for held in _mappings(content):
        for key in _CLASS_LISTS:
            names = held.get(key)
            if isinstance(names, list | tuple) and all(isinstance(name, str) for name in names):
                found |= {tuple(names)} if len(names) > 1 else set()
        for key in _CLASS_MAPS:
            names_by_index = _by_index(fields(held.get(key)))
            if names_by_index:
                found.add(names_by_index)
    return found.pop() if len(found) == 1 else None


def metadata(header: dict[str, object]) -> dict[str, object]:
    """The ``__metadata__`` of a safetensors header; values that are JSON are read."""
    held = header.get("__metadata__")
    return {key: _json(text) for key, text in held.items()} if isinstance(held, dict) else {}


def _json(text: object) -> object:
    try:
        return json.loads(text) if isinstance(text, str) else text
    except ValueError:
        return text


def _mappings(content: object) -> Iterator[dict[object, object]]:
    """Every mapping of the content, and every object's attributes, outermost first."""
    level, seen = [content], set[int]()
    for _ in range(_DEPTH):
        below: list[object] = []
        for value in level:
            held = fields(value)
            if held is None or id(value) in seen:
                continue
            seen.add(id(value))
            yield held
            below += [inner for key, inner in held.items() if not _PASSED_OVER.match(str(key))]
        level = below


def _numbers(value: object) -> tuple[float, ...] | None:
    if isinstance(value, Stored):
        small = not value.unusual and math.prod(value.size) <= 4
        value = value.tensor() if small else None
    numbers = array(value)
    if numbers is not None:
        value = numbers.reshape(-1).tolist()
    if isinstance(value, Tensor):
        value = value.reshape(-1).tolist()
    held = fields(value)
    if held is not None and "_content" in held:  # OmegaConf's nodes
        value = held["_content"]
    if isinstance(value, list | tuple):
        plain = [number for node in value if _is_number(number := _node(node))]
        if plain and len(plain) == len(value):
            return tuple(float(number) for number in plain)
    return None  # a single number is an accuracy's mean rather than an image's


def _node(value: object) -> object:
    held = fields(value)
    return held.get("_val") if held is not None else value


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _scaled(numbers: tuple[float, ...], scale: float) -> tuple[float, ...]:
    # Of float32 the file has 0.48500001: the number that was meant is the shorter one.
    return tuple(float(f"{number / scale:.7g}") for number in numbers)


def _by_index(names: dict[object, object] | None) -> tuple[str, ...] | None:
    if not names or len(names) < 2:
        return None
    if all(isinstance(index, int) for index in names.values()):
        names = {index: name for name, index in names.items()}
    try:
        ordered = {int(str(index)): str(name) for index, name in names.items()}
    except ValueError:
        return None
    if sorted(ordered) != list(range(len(names))):
        return None
    return tuple(ordered[index] for index in range(len(names)))

"""Weights that are spread over several files, as large models come."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_SHARD = re.compile(r"(.*?)[-_](\d+)-of-(\d+)(\.\w+)?")
_ENDINGS = (".safetensors", ".pth", ".pt", ".th", ".bin", ".ckpt", ".tar")
_FACTS = ("config.json", "preprocessor_config.json")


@dataclass(frozen=True)
class Parts:
    """The files that make a set of weights.

    Attributes:
        files: in order.
        weight_map: which tensor lies in which file; empty where nobody says.
        facts: what the configuration files of a folder tell.
    """

    files: Sequence[Path]
    weight_map: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)

    def check(self, contents: Sequence[Mapping[Any, Any]]) -> None:
        """Refuses contents that are not what the index says, or that overlap.

        Raises:
            ValueError: with the tensor's name.
        """
        if len(self.files) == 1:
            return
        seen: dict[Any, Path] = {}
        for path, content in zip(self.files, contents, strict=True):
            for name in content:
                if name in seen and name != " metadata":
                    raise ValueError(f"{name} is in {seen[name].name} and in {path.name}")
                seen[name] = path
        for name, file in self.weight_map.items():
            if name not in seen:
                raise ValueError(f"{name} is missing, which the index puts into {file}")


def whole_file(path: Path) -> Parts:
    """The files that belong to a name: itself, the shards of an index, of a folder.

    Raises:
        ValueError: one of them is missing, or it is not clear which are meant.
    """
    if path.is_dir():
        return _folder(path)
    if not path.is_file():
        raise ValueError("it does not exist")
    if path.name.endswith(".index.json"):
        return _indexed(path)
    match = _SHARD.fullmatch(path.name)
    if match is None:
        return Parts([path])
    stem, _, count, ending = match[1], match[2], int(match[3]), match[4] or ""
    index = path.with_name(f"{stem}{ending}.index.json")
    if index.is_file():
        return _indexed(index)
    width, total, joint = len(match[2]), match[3], path.name[len(stem)]
    if not 0 < count <= 1000:
        raise ValueError(f"no shard of {count}")
    names = [f"{stem}{joint}{n:0{width}}-of-{total}{ending}" for n in range(1, count + 1)]
    if (
        f"{int(match[2]):0{width}}" == "0" * width
        or path.with_name(f"{stem}{joint}{0:0{width}}-of-{total}{ending}").is_file()
    ):  # some count from 0
        names = [f"{stem}{joint}{n:0{width}}-of-{total}{ending}" for n in range(count)]
    return Parts(_present(path.parent, names))


def _indexed(path: Path) -> Parts:
    try:
        weight_map = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        names = sorted(set(weight_map.values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path.name} is no index of shards: no weight_map") from error
    # A name that leads out of the folder would read somebody else's file.
    if not names or not all(isinstance(name, str) and Path(name).name == name for name in names):
        raise ValueError(f"{path.name}: expected plain names of files in weight_map")
    return Parts(_present(path.parent, names), weight_map, _facts(path.parent))


def _present(folder: Path, names: Sequence[str]) -> list[Path]:
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        more = f" ({len(missing)} of {len(names)} are)" if len(missing) > 1 else ""
        raise ValueError(f"shard {missing[0]} is missing{more}")
    return [folder / name for name in names]


def _folder(path: Path) -> Parts:
    indices = sorted(path.glob("*.index.json"), key=lambda file: "safetensors" not in file.name)
    if indices:
        return _indexed(indices[0])
    if (path / ".metadata").is_file() or any(path.glob("*.distcp")):
        raise ValueError("a distributed checkpoint: torch.distributed.checkpoint can convert it")
    if (path / "data.pkl").is_file():
        raise ValueError("an unpacked file of torch.save: pack it again (zip -0)")
    if (path / "saved_model.pb").is_file():
        raise ValueError("a TensorFlow model: PyTorch's weights are needed")
    files = sorted(file for file in path.iterdir() if file.suffix in _ENDINGS and file.is_file())
    shards = [file for file in files if _SHARD.fullmatch(file.name)]
    if shards and len(shards) == len(files):
        parts = whole_file(shards[0])
        if set(parts.files) == set(files):
            return Parts(parts.files, facts=_facts(path))
    if len(files) == 1:
        return Parts(files, facts=_facts(path))
    names = ", ".join(file.name for file in files[:3])
    raise ValueError(f"a folder{' with ' + names if names else ' without weights'}: name the file")


def _facts(folder: Path) -> dict[str, Any]:
    found = {}
    for name in _FACTS:
        try:
            found[name] = json.loads((folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
    return found

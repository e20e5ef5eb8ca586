"""What ``torch.save`` wrote, as data: its pickle is read inertly, its tensors are mapped.

Three layouts: the zip archive of PyTorch 1.6 and later, the one before it (pickles one behind the
other, then the storages), and a plain pickle with storages inside. Numbers stay on disk until
somebody looks at them, so that an optimizer's state costs nothing.
"""

import io
import math
import mmap
import struct
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from trainables.teachers.inert_pickle import Global, NotAPickle, Trap, load
from trainables.teachers.inert_values import PLAIN, Object, array

_MAGIC = 0x1950A86A20F9469CFC6C  # of the layout before the zip archive

_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
    "UntypedStorage": torch.uint8,
}
# What a tensor can be that is no array of numbers, by the function that would rebuild it.
_UNUSUAL = {
    "_rebuild_qtensor": "quantised",
    "_rebuild_sparse_tensor": "sparse",
    "_rebuild_sparse_csr_tensor": "sparse",
    "_rebuild_nested_tensor": "nested",
    "_rebuild_meta_tensor_no_storage": "empty (meta)",
    "_rebuild_wrapper_subclass": "wrapped",
    "DTensor": "distributed",
    "ShardedTensor": "distributed",
}
# Modules and functions that only a trap would call; nothing is ever called here.
_COMMANDS = frozenset(
    (
        *("os", "posix", "nt", "sys", "subprocess", "pty", "shutil", "socket", "ctypes"),
        *("importlib", "runpy", "webbrowser", "pip", "code", "pickle.loads"),
        *("builtins.eval", "builtins.exec", "builtins.compile", "builtins.open"),
        *("builtins.__import__", "builtins.input", "builtins.breakpoint", "builtins.apply"),
    )
)


@dataclass(eq=False)
class Storage:
    """Numbers of one type in a row.

    Attributes:
        dtype: of the elements; None: a quantised type.
        count: of the elements.
        place: the buffer that holds them, and the first byte; None until it is known.
    """

    dtype: torch.dtype | None
    count: int
    place: tuple[Any, int] | None = None


@dataclass(eq=False)
class Stored:
    """A tensor that can be had: a view of a storage, or a word for what it is instead.

    Attributes:
        storage, offset, size, stride: the view.
        dtype: of the tensor.
        unusual: what it is, where it is no array of numbers: ``quantised``, ``sparse``.
        value: the tensor, where it is already there.
    """

    storage: Storage | None = None
    offset: int = 0
    size: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    dtype: torch.dtype | None = None
    unusual: str = ""
    value: Tensor | None = None

    def tensor(self) -> Tensor:
        """The numbers.

        Raises:
            NotAPickle: the view leaves its storage, or the file ends before.
        """
        if self.value is not None:
            return self.value
        storage = self.storage
        if storage is None or storage.place is None or self.dtype is None:
            raise NotAPickle("the numbers of a tensor are missing")
        buffer, first = storage.place
        numbers = math.prod(self.size)
        ahead = sum((size - 1) * step for size, step in zip(self.size, self.stride, strict=True))
        if min((self.offset, *self.size, *self.stride), default=0) < 0:
            raise NotAPickle("a tensor of negative size")
        if not numbers:
            return torch.empty(self.size, dtype=self.dtype)
        itemsize = self.dtype.itemsize
        room = storage.count * (storage.dtype or self.dtype).itemsize
        begin, length = first + self.offset * itemsize, (ahead + 1) * itemsize
        if self.offset * itemsize + length > room or begin + length > len(buffer):
            raise NotAPickle("the file ends before its numbers do")
        if begin % itemsize:  # only the old layouts lie askew
            buffer, begin = bytearray(memoryview(buffer)[begin : begin + length]), 0
        flat = torch.frombuffer(buffer, dtype=self.dtype, count=ahead + 1, offset=begin)
        return flat.as_strided(self.size, self.stride)


def as_stored(value: object) -> Stored | None:
    """A value of a file as a tensor, also where it was a numpy array or never was dense."""
    if isinstance(value, Stored):
        return value
    if isinstance(value, Tensor):
        return Stored(size=tuple(value.shape), dtype=value.dtype, value=value)
    if isinstance(value, Object):
        word = _UNUSUAL.get(value.kind.rpartition(".")[2])
        if word:
            return Stored(unusual=word)
        numbers = array(value)
        if numbers is not None and numbers.dtype.isnative:
            return as_stored(torch.from_numpy(numbers))
    return None


def read_torch(path: Path) -> Any:
    """The content of a file of ``torch.save``, or of a plain pickle with tensors.

    Raises:
        NotAPickle: damaged, or something else.
    """
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    return _read_zip(path, mapped) if zipfile.is_zipfile(path) else _read_stream(mapped, mapped)


def _read_zip(path: Path, mapped: mmap.mmap) -> Any:
    try:
        archive = zipfile.ZipFile(path)
        entries = {entry.filename: entry for entry in archive.infolist()}
        (pickled,) = (name for name in entries if name.endswith("data.pkl"))
        folder = pickled.removesuffix("data.pkl")
        order = archive.read(f"{folder}byteorder") if f"{folder}byteorder" in entries else b""
        if order not in (b"", sys.byteorder.encode()):
            raise NotAPickle(f"written on a {order.decode()}-endian machine")
        reader = _Reader()
        content = reader.load(io.BytesIO(archive.read(pickled)))
        for key, storage in reader.storages.items():
            entry = entries[f"{folder}data/{key}"]
            if entry.compress_type == zipfile.ZIP_STORED:
                storage.place = mapped, _first_byte(mapped, entry.header_offset)
            else:
                storage.place = bytearray(archive.read(entry)), 0
        return content
    except NotAPickle:
        raise
    except (zipfile.BadZipFile, KeyError, ValueError, EOFError, struct.error) as error:
        raise NotAPickle(f"{type(error).__name__}: {error}") from error


def _first_byte(mapped: mmap.mmap, header: int) -> int:
    name, extra = struct.unpack("<HH", mapped[header + 26 : header + 30])
    return int(header + 30 + name + extra)


def _read_stream(file: BinaryIO | mmap.mmap, buffer: Any) -> Any:
    """Both older layouts: what does not begin with the magic number is a plain pickle."""
    reader = _Reader()
    content = reader.load(file)
    if content != _MAGIC:
        return content
    reader.load(file)  # the protocol's version
    system = reader.load(file)
    if isinstance(system, dict) and system.get("little_endian") is False:
        raise NotAPickle("written on a big-endian machine")
    content = reader.load(file)
    for key in reader.load(file):
        storage = reader.storages.get(str(key))
        if storage is None:
            raise NotAPickle(f"storage {key} is not used")
        size = file.read(8)
        if len(size) < 8:
            raise NotAPickle("it has no end")
        (count,) = struct.unpack("<q", size)
        storage.place = buffer, file.tell()
        file.seek(count * (storage.dtype or torch.uint8).itemsize, io.SEEK_CUR)
    return content


def _inner_storage(data: Any, *_: Any) -> Any:
    """A storage within a plain pickle is a file of its own."""
    if not isinstance(data, bytes):
        raise NotAPickle("a storage without bytes")
    return _read_stream(io.BytesIO(data), bytearray(data))


class _Reader:
    """The storages that the persistent ids of one file name, and what it would have called."""

    def __init__(self) -> None:
        self.storages: dict[str, Storage] = {}
        self.named: set[str] = set()

    def load(self, file: Any) -> Any:
        """The next pickle of the file.

        Raises:
            NotAPickle: damaged.
            Trap: its reading would run commands: it is no checkpoint of an honest training.
        """
        content = load(file, self.persistent, _CALLS, self.named)
        for path in sorted(self.named):
            if path.partition(".")[0] in _COMMANDS or path in _COMMANDS:
                raise Trap(f"it would run {path} when it is loaded")
        return content

    def persistent(self, name: Any) -> Any:
        match name:
            case ("storage", Global(path), key, _, int(count), *view):
                dtype = _DTYPES.get(path.rpartition(".")[2])
                key = str(key)
                storage = self.storages.setdefault(key, Storage(dtype, count))
                match view:
                    case [(_, int(), int())]:
                        raise NotAPickle("a view of a storage, as PyTorch 0.1 wrote it")
                return storage
            case ("module", kind, *_):  # before PyTorch 1.6 a module went with its source
                return kind
        raise NotAPickle(f"a persistent id {str(name)[:40]!r}")


def _rebuild(storage: Any, offset: Any = 0, size: Any = (), stride: Any = (), *more: Any) -> Stored:
    if not isinstance(storage, Storage):
        raise NotAPickle("a tensor without a storage")
    if storage.dtype is None:
        return Stored(unusual="quantised")
    size, stride = tuple(size), tuple(stride)
    if len(size) != len(stride) or not all(isinstance(n, int) for n in (offset, *size, *stride)):
        raise NotAPickle("a tensor without a shape")
    return Stored(storage, offset, size, stride, storage.dtype)


def _rebuild_with_dtype(
    storage: Any, offset: Any, size: Any, stride: Any, grad: Any, hooks: Any, dtype: Any, *_: Any
) -> Stored:
    stored = _rebuild(storage, offset, size, stride)
    name = dtype.path.rpartition(".")[2] if isinstance(dtype, Global) else ""
    found = getattr(torch, name, None) if name in _NEW_DTYPES else None
    if found is None:
        return Stored(unusual=name or "strange")
    stored.dtype = found
    return stored


# Types that came after the storages with names of their own.
_NEW_DTYPES = ("uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2")


def _first(data: Any = None, *_: Any) -> Any:
    return data


def _subclass(function: Any = None, kind: Any = None, args: Any = (), *_: Any) -> Any:
    path = function.path if isinstance(function, Global) else ""
    return _TENSORS[path](*args) if path in _TENSORS else Object(path, tuple(args))


_TENSORS: dict[str, Any] = {
    "torch._utils._rebuild_tensor": _rebuild,
    "torch._utils._rebuild_tensor_v2": _rebuild,
    "torch._utils._rebuild_tensor_v3": _rebuild_with_dtype,
    "torch._utils._rebuild_parameter": _first,
    "torch._utils._rebuild_parameter_with_state": _first,
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": _first,
    "torch._utils._rebuild_device_tensor_from_numpy": _first,
    "torch.nn.parameter.Parameter": _first,
    "torch._tensor._rebuild_from_type_v2": _subclass,
    "torch.storage._load_from_bytes": _inner_storage,
}
_CALLS = PLAIN | _TENSORS

"""What a file is, by its first bytes: the ending says little, and people rename."""

import json
import tarfile
import zipfile
from pathlib import Path

_MAGIC = (
    (b"\x89HDF\r\n\x1a\n", "a Keras or HDF5 file: PyTorch's weights are needed"),
    (b"GGUF", "a GGUF file: PyTorch's weights are needed"),
    (b"\x1f\x8b", "a gzip file: unpack it first"),
    (b"BZh", "a bzip2 file: unpack it first"),
    (b"\xfd7zXZ", "an xz file: unpack it first"),
    (b"\x28\xb5\x2f\xfd", "a zstd file: unpack it first"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive: unpack it first"),
    (b"Rar!", "a RAR archive: unpack it first"),
    (b"\x93NUMPY", "a NumPy array: a state dict is needed"),
    (b"PAR1", "a Parquet file, which holds no weights"),
    (b"\x89PNG", "a picture"),
    (b"\xff\xd8\xff", "a picture"),
    (b"version https://git-lfs", "a Git LFS pointer: fetch the file itself (git lfs pull)"),
)
_TEXT = ((b"<", "an HTML or XML page: the download went wrong"), (b"{", "a JSON file"))
_WEIGHTS = (".pt", ".pth", ".th", ".bin", ".ckpt", ".safetensors", ".tar")


def foreign(path: Path) -> str:
    """What a file is that holds no weights which can be read here; empty where it may."""
    size = path.stat().st_size
    if size == 0:
        return "an empty file"
    with path.open("rb") as file:
        head = file.read(512)
    for magic, kind in _MAGIC:
        if head.startswith(magic):
            return kind
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for magic, kind in _TEXT:
        if text.startswith(magic) and not is_safetensors(path):
            return kind
    if head[4:8] == b"TFL3" or head.startswith(b"\x08\x01\x12"):
        return "a TensorFlow file: PyTorch's weights are needed"
    if head[:1] == b"\x08" and head[2:3] == b"\x12" and not is_safetensors(path):
        return "an ONNX file: save the state_dict instead"
    if zipfile.is_zipfile(path):
        return _archive(path)
    if tarfile.is_tarfile(path):
        return "a tar archive: unpack it first (one of PyTorch before 0.4: save it again)"
    return ""


def is_safetensors(path: Path) -> bool:
    """Whether a file begins with the header of a safetensors file."""
    with path.open("rb") as file:
        head = file.read(9)
    length = int.from_bytes(head[:8], "little")
    return len(head) == 9 and head[8:] == b"{" and length <= 100_000_000


def safetensors_header(path: Path) -> dict[str, object]:
    """What the header says of each tensor, and ``__metadata__``.

    Raises:
        ValueError: damaged.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    if not isinstance(header, dict):
        raise ValueError("the header is no mapping")
    return header


def _archive(path: Path) -> str:
    try:
        names = zipfile.ZipFile(path).namelist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        return f"a damaged zip archive ({error})"
    leaves = {name.rpartition("/")[2] for name in names}
    if leaves & {"archive_format", "serialized_exported_program.json", "archive_version"}:
        return "an exported program (.pt2): save the state_dict of the module it was made from"
    if "constants.pkl" in leaves or any("/code/" in name for name in names):
        return "a TorchScript file: save the state_dict of the module it was made from"
    if "data.pkl" in leaves:
        return ""
    if leaves & {"model.weights.h5", "saved_model.pb"}:
        return "a Keras or TensorFlow file: PyTorch's weights are needed"
    if any(name.endswith(".npy") for name in leaves):
        return "a NumPy archive: a state dict is needed"
    inside = [name for name in names if name.endswith(_WEIGHTS)]
    more = f"holds {inside[0]}" if inside else f"{len(names)} files, no weights of PyTorch"
    return f"a zip archive ({more}): unpack it first"

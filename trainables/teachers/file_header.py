"""The first page of a file that is kept of a teacher: what is in it, and whether it is whole."""

import hashlib
import json
import os
import struct
import uuid
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

from trainables.errors import UserError

HEADER_BYTES = 4096
_PREFIX = struct.Struct("<8sII32s")


class Format(NamedTuple):
    """A kind of file.

    Attributes:
        magic: its first 8 bytes.
        version: raised whenever the layout changes, or the same key would mean other content.
        what: it is, in words.
        key: dataclass of what decides the content; it has ``file_bytes``, and ``facts``, which
            are its attributes by name but for those that came later and say nothing.
    """

    magic: bytes
    version: int
    what: str
    key: type

    def header(self, key: Any) -> bytes:
        """The page for a key."""
        facts = json.dumps(key.facts, sort_keys=True).encode()
        digest = hashlib.sha256(facts).digest()
        page = _PREFIX.pack(self.magic, self.version, len(facts), digest) + facts
        if len(page) > HEADER_BYTES:
            raise ValueError(f"a key takes at most {HEADER_BYTES - _PREFIX.size} bytes")
        return page.ljust(HEADER_BYTES, b"\0")

    def open(self, path: Path, key: Any) -> int:
        """A descriptor of the file at ``path``, which is made if it does not exist.

        Raises:
            UserError: the file is damaged, or not the one of ``key``.
            OSError: it cannot be made or opened.
        """
        try:
            descriptor = os.open(path, os.O_RDWR)
        except FileNotFoundError:
            self._create(path, key)
            descriptor = os.open(path, os.O_RDWR)
        try:
            if self.read_key(path, descriptor) != key:
                raise refusal(path, f"it is the {self.what} of other content than its name says")
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def read_key(self, path: Path, descriptor: int) -> Any:
        """The key in the header of a file.

        Raises:
            UserError: header or length are not those of a whole file.
        """
        page = os.pread(descriptor, HEADER_BYTES, 0)
        if page[: len(self.magic)] != self.magic or len(page) < HEADER_BYTES:
            raise refusal(path, f"it is no {self.what}")
        _, version, length, _ = _PREFIX.unpack_from(page)
        if version != self.version:
            raise refusal(path, f"its format is {version}, expected {self.version}")
        try:
            facts = json.loads(page[_PREFIX.size : _PREFIX.size + length])
            known = {field.name for field in fields(self.key)}
            key = self.key(**{name: facts[name] for name in known & facts.keys()})
            whole = page == self.header(key)
        except (ValueError, KeyError, TypeError):
            whole = False
        if not whole:
            raise refusal(path, "its header is damaged")
        found = os.fstat(descriptor).st_size
        if found != key.file_bytes:
            raise refusal(path, f"it has {found} bytes, expected {key.file_bytes}")
        return key

    def _create(self, path: Path, key: Any) -> None:
        """An empty file under another name, then linked: of several processes one succeeds."""
        path.parent.mkdir(parents=True, exist_ok=True)
        hidden = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
        try:
            with open(hidden, "xb") as file:
                file.write(self.header(key))
                file.truncate(key.file_bytes)
                file.flush()
                os.fsync(file.fileno())
            try:
                os.link(hidden, path)
            except FileExistsError:
                return
        finally:
            hidden.unlink(missing_ok=True)


def refusal(path: Path, reason: str) -> UserError:
    """That a file cannot be used, and what to do."""
    return UserError(f"{path} cannot be used: {reason}; delete it with 'kdsweep cache clear'")

"""A training's state as bytes that say whose it is, in which format, and whether they are whole.

The first line is JSON: ``format``, ``config_key``, ``sha256`` of all that follows; then comes what
``torch.save`` writes. (torch itself does not notice a flipped bit.)
"""

import hashlib
import io
import json
from typing import Any

import torch

FORMAT = 5
"""Raised whenever a training's state means something else. The first had no such line."""


class UnusableProgress(Exception):
    """There is a state, and it is not one to go on from: the message says why."""


def pack_progress(state: dict[str, Any], key: str) -> bytes:
    """A state as bytes.

    Args:
        state: tensors, numbers, texts, and lists and dicts of them.
        key: of the config that is trained.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    body = buffer.getvalue()
    head = {"format": FORMAT, "config_key": key, "sha256": hashlib.sha256(body).hexdigest()}
    return json.dumps(head).encode() + b"\n" + body


def unpack_progress(data: bytes, key: str | None) -> dict[str, Any]:
    """What `pack_progress` was given, on the CPU.

    Args:
        data: the bytes.
        key: of the config that goes on; None where another config's state may be taken over.

    Raises:
        UnusableProgress: of another format or config, or damaged.
    """
    first, _, body = data.partition(b"\n")
    try:
        head = dict(json.loads(first))
    except (ValueError, TypeError) as error:
        raise UnusableProgress("is damaged, or of another version of kdsweep") from error
    if head.get("format") != FORMAT:
        raise UnusableProgress(f"is of another version (format {head.get('format')}, not {FORMAT})")
    if key is not None and head.get("config_key") != key:
        raise UnusableProgress(f"is of another config ({head.get('config_key')}, not {key})")
    if head.get("sha256") != hashlib.sha256(body).hexdigest():
        raise UnusableProgress("is damaged")
    state: dict[str, Any] = torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
    return state

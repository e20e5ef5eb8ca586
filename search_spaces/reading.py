"""YAML as studies are written in it: plain values alone, and no key twice."""

from collections.abc import Hashable
from typing import Any

import yaml

from trainables.errors import UserError

_MERGE = "tag:yaml.org,2002:merge"


def read_yaml(text: str | bytes, what: str) -> Any:
    """The content of a YAML text.

    Args:
        text: YAML, as UTF-8 where it is bytes.
        what: whose text it is, for errors: ``study 'my.yaml'``.

    Raises:
        UserError: it is no YAML, or a key stands twice in one block: YAML itself would take the
            last one in silence.
    """
    try:
        return yaml.load(text.decode() if isinstance(text, bytes) else text, _Once)
    except _Twice as error:
        raise UserError(f"{what}: {error}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        # A ValueError is of a date that does not exist, of a number of 5,000 digits, of no UTF-8.
        reason = "it nests too deeply" if isinstance(error, RecursionError) else str(error)
        raise UserError(f"{what} is no YAML: {_short(' '.join(reason.split()))}") from error


class _Twice(Exception):
    """A key that stands twice in one block."""


class _Once(yaml.SafeLoader):
    """Refuses a key that its block already has. One that ``<<`` merges in may be overridden."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        lines: dict[Hashable, int] = {}
        for key_node, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if key_node.tag == _MERGE:
                continue
            key, line = self.construct_object(key_node, deep=True), key_node.start_mark.line + 1
            if not isinstance(key, Hashable):
                break  # which YAML itself refuses
            if key in lines:
                places = f"in line {lines[key]} and in line {line}"
                raise _Twice(f"key '{_short(str(key))}' stands twice, {places}; leave one")
            lines[key] = line
        return super().construct_mapping(node, deep)


def _short(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:197]}..."

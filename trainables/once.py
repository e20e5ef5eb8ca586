"""Warnings that a process gives once."""

import functools
import logging


@functools.cache
def warn_once(log: logging.Logger, message: str) -> None:
    """Logs a warning, unless this process has done so."""
    log.warning(message)

"""Who listens at an address: said in seconds, where Ray itself would try for minutes."""

import os
import socket

from trainables.errors import UserError

CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 5.0

# What a client of HTTP/2, on which Ray's calls travel, says first; and the frame that a server
# answers with: three bytes of length, then the type SETTINGS.
_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
_SETTINGS = 4


def address_of(text: str) -> str:
    """``HOST:PORT`` of a Ray cluster's head that is there and answers as one.

    Args:
        text: as ``--address``: ``auto`` or ``HOST:PORT``.

    Raises:
        UserError: no such address, nobody listens there, or somebody else does.
    """
    if "://" in text:
        raise UserError(f"--address {text}: expected auto or HOST:PORT of a cluster's head")
    where = _found(text) if text == "auto" else text
    named = f"--address {text}" + (f" ({where})" if where != text else "")
    host, _, port = where.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise UserError(f"{named}: expected auto or HOST:PORT, such as 10.0.0.1:6379")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS) as line:
            line.settimeout(ANSWER_SECONDS)
            answer = _answer(line)
    except OSError as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"{named}: nobody listens there ({reason})") from error
    encrypted = os.environ.get("RAY_USE_TLS", "0") not in ("", "0")
    if not encrypted and (len(answer) < 4 or answer[3] != _SETTINGS):
        raise UserError(f"{named}: something listens there, but it is no Ray head")
    return where


def answers(where: str) -> bool:
    """Whether anybody listens at ``HOST:PORT``."""
    host, _, port = where.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), ANSWER_SECONDS).close()
    except OSError:
        return False
    return True


def _answer(line: socket.socket) -> bytes:
    """The first bytes that a server says to a greeting; none where it is silent or hangs up."""
    try:
        line.sendall(_GREETING)
        return line.recv(9)
    except OSError:
        return b""


def _found(text: str) -> str:
    """The address of the cluster that runs on this machine, or that ``RAY_ADDRESS`` names."""
    from ray._private.services import canonicalize_bootstrap_address

    named = os.environ.get("RAY_ADDRESS")
    try:
        found = canonicalize_bootstrap_address(named or text)
    except (ConnectionError, ValueError, OSError) as error:
        what = f"RAY_ADDRESS is {named}, which is no address" if named else "no cluster runs here"
        raise UserError(f"--address {text}: {what}; start one by `ray start --head`") from error
    if found is None:
        raise UserError(f"--address {text}: RAY_ADDRESS is {named}; expected HOST:PORT")
    return str(found)

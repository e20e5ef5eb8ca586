"""Who listens at an address: real listeners of the wrong kind. (A real head: tests/chaos.)"""

import socket
import threading
import time

import pytest

from orchestrator.sweeps import address
from orchestrator.sweeps.address import address_of
from trainables.errors import UserError


@pytest.fixture
def listener():
    """Starts a server that says something to everybody; returns its address."""
    servers = []

    def start(says: bytes) -> str:
        server = socket.create_server(("127.0.0.1", 0))
        servers.append(server)

        def serve() -> None:
            kept = []  # open, so that the client waits
            while True:
                try:
                    kept.append(server.accept()[0])
                    kept[-1].sendall(says)
                except OSError:
                    return

        threading.Thread(target=serve, daemon=True).start()
        return f"127.0.0.1:{server.getsockname()[1]}"

    yield start
    for server in servers:
        server.close()


def refusal(text: str) -> str:
    with pytest.raises(UserError) as caught:
        address_of(text)
    message = str(caught.value)
    assert len(message) < 300
    assert "\n" not in message
    return message


def test_nobody_listens():
    with socket.create_server(("127.0.0.1", 0)) as server:
        free = f"127.0.0.1:{server.getsockname()[1]}"
    assert refusal(free) == f"--address {free}: nobody listens there (Connection refused)"


@pytest.mark.parametrize(
    "says", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"-ERR unknown command 'PRI'\r\n"]
)
def test_somebody_else_listens(listener, says, monkeypatch):
    monkeypatch.setattr(address, "ANSWER_SECONDS", 0.3)
    began = time.monotonic()
    where = listener(says)
    assert refusal(where) == f"--address {where}: something listens there, but it is no Ray head"
    assert time.monotonic() - began < 5


def test_what_speaks_http_2_is_left_to_ray(listener):
    where = listener(bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
    assert address_of(where) == where


@pytest.mark.parametrize("text", ["foo", "foo:", ":6379", "foo:x", "foo:70000", "foo:0"])
def test_no_address(text):
    assert "expected auto or HOST:PORT" in refusal(text)


def test_no_client_of_ray():
    assert "expected auto or HOST:PORT of a cluster's head" in refusal("ray://127.0.0.1:10001")


def test_no_such_host():
    assert "nobody listens there" in refusal("no-such-host.invalid:6379")


def test_what_the_site_set_is_no_address(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "local")
    assert refusal("auto") == "--address auto: RAY_ADDRESS is local; expected HOST:PORT"

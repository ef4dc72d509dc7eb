"""One attempt, against servers that are real and not always kind."""

import socket
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest
from django.db import transaction

from apps.common.transactions import TransactionMisuse
from apps.fiscal_docs.sandbox.discovery import trust_file
from apps.webhooks import sender
from apps.webhooks.sender import Outcome, post
from tests.integration.webhooks.receiver import Receiver, raw, receiving

BODY = b'{"type":"ping"}'


def send(url: str, **headers: str) -> Outcome:
    return post(url, body=BODY, headers={"Content-Type": "application/json", **headers})


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a second, whatever is waited for."""
    monkeypatch.setattr(sender, "TOTAL_S", 0.5)


class TestPost:
    def test_says_what_was_asked_for(self, receiver: Receiver) -> None:
        outcome = send(receiver.url, **{"webhook-id": "1"})
        (told,) = receiver.told
        assert (outcome.status, outcome.succeeded, outcome.error) == (204, True, "")
        assert (told.path, told.body, told.headers["webhook-id"]) == ("/hooks?shop=1", BODY, "1")
        assert told.headers["host"].startswith("localhost:")

    @pytest.mark.parametrize("status", [200, 201, 202, 299])
    def test_takes_any_2xx_for_a_yes(self, receiver: Receiver, status: int) -> None:
        receiver.usual = status
        assert send(receiver.url).succeeded

    @pytest.mark.parametrize("status", [304, 400, 401, 404, 410, 429, 500, 503])
    def test_takes_nothing_else_for_one(self, receiver: Receiver, status: int) -> None:
        receiver.usual = status
        outcome = send(receiver.url)
        assert (outcome.status, outcome.succeeded) == (status, False)
        assert str(status) in outcome.error

    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    def test_follows_no_redirect(self, receiver: Receiver, status: int) -> None:
        with receiving() as elsewhere:
            receiver.usual, receiver.headers = status, {"Location": elsewhere.url}
            assert not send(receiver.url).succeeded
            assert elsewhere.told == []

    def test_keeps_the_beginning_of_the_answer_without_what_must_not_be_kept(self, receiver: Receiver) -> None:
        receiver.usual = 500
        receiver.body = "não\x1b[31m 4242424242424242 \x00".encode() + b"\xff" + b"x" * 100_000
        answer = send(receiver.url).answer
        assert answer.startswith("não[31m ")
        assert len(answer) <= 500
        assert "4242424242424242" not in answer
        assert "\x00" not in answer

    def test_hears_for_how_long_to_wait(self, receiver: Receiver) -> None:
        receiver.usual = 429
        for value, seconds in (("120", 120), ("Wed, 21 Oct 2026 07:28:00 GMT", 0), ("-1", 0), ("9" * 40, 0)):
            receiver.headers = {"Retry-After": value}
            assert send(receiver.url).retry_after_s == seconds

    def test_is_no_part_of_a_transaction(self, receiver: Receiver, transactional_db: None) -> None:
        with transaction.atomic(), pytest.raises(TransactionMisuse):
            send(receiver.url)
        assert receiver.told == []

    def test_does_not_go_through_a_proxy_of_the_environment(
        self, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:9/")
        assert send(receiver.url).succeeded


class TestTls:
    @pytest.fixture
    def trusting(self, settings: Any) -> None:
        settings.WEBHOOKS_CA_FILE = str(trust_file())

    def test_sends_to_whom_the_certificate_names(self, trusting: None) -> None:
        with receiving(names=["localhost"]) as receiver:
            assert send(receiver.url).succeeded
            assert receiver.told[0].body == BODY

    def test_sends_nothing_to_another_name(self, trusting: None) -> None:
        with receiving(names=["shop.example.com"]) as receiver:
            outcome = send(receiver.url)
            assert (outcome.status, receiver.told) == (None, [])
            assert "certificate" in outcome.error

    def test_sends_nothing_to_a_stranger(self) -> None:
        with receiving(names=["localhost"]) as receiver:
            outcome = send(receiver.url)
            assert (outcome.status, receiver.told) == (None, [])
            assert "not trusted" in outcome.error

    def test_says_so_when_the_other_side_speaks_none(self, receiver: Receiver, trusting: None) -> None:
        outcome = send(receiver.url.replace("http://", "https://"))
        assert (outcome.status, outcome.error) == (None, "TLS failed.")


class TestPrivateAddress:
    def test_is_not_connected_to_whatever_the_name(self, settings: Any) -> None:
        settings.WEBHOOKS_ALLOW_LOCAL = False
        outcome = send("https://localhost.localdomain:8443/")  # a name that no rule about texts refuses
        assert outcome.status is None
        assert outcome.error in ("The name leads to an address that is not public.", "The name was not found.")

    def test_is_not_connected_to_when_a_name_was_public_at_the_time_of_the_check(
        self, settings: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The system's resolver changes its mind: the connection goes to the address that was looked at."""
        settings.WEBHOOKS_ALLOW_LOCAL = False
        asked: list[Any] = []

        def turning(host: str, port: Any, *rest: Any, **more: Any) -> Any:
            asked.append(host)
            address = "192.0.2.1" if host != "shop.example.com" else "8.8.8.8" if len(asked) == 1 else "127.0.0.1"
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

        connected: list[Any] = []

        def connect(address: Any, timeout: float) -> Any:
            connected.append(address)
            raise ConnectionRefusedError

        monkeypatch.setattr(socket, "getaddrinfo", turning)
        monkeypatch.setattr(socket, "create_connection", connect)
        assert send("https://shop.example.com/").error == "The connection was refused."
        assert (asked, connected) == (["shop.example.com"], [("8.8.8.8", 443)])

    def test_is_not_let_in_by_an_old_registration(self, receiver: Receiver, settings: Any) -> None:
        settings.WEBHOOKS_ALLOW_LOCAL = False
        assert "https://" in send(receiver.url).error
        assert receiver.told == []


def _silence(_sock: socket.socket, end: threading.Event) -> None:
    end.wait(30)


def _drip(first: bytes, each: bytes) -> Callable[[socket.socket, threading.Event], None]:
    """A few bytes every now and then: each comes in time, and they never end."""

    def say(sock: socket.socket, end: threading.Event) -> None:
        sock.sendall(first)
        while not end.wait(0.02):
            sock.sendall(each)

    return say


@pytest.mark.usefixtures("hasty")
class TestSlowServer:
    @pytest.mark.parametrize(
        "say",
        [
            pytest.param(_silence, id="that says nothing"),
            pytest.param(_drip(b"HTTP/1.1 200 OK\r\nX: ", b"a"), id="that drips a header"),
            pytest.param(_drip(b"", b"H"), id="that drips its first line"),
            pytest.param(_drip(b"", b"HTTP/1.1 100 Continue\r\n\r\n"), id="that always wants more"),
        ],
    )
    def test_is_left_after_the_whole_time(self, say: Callable[[socket.socket, threading.Event], None]) -> None:
        with raw(say) as url:
            started = time.monotonic()
            outcome = send(url)
            assert time.monotonic() - started < 25, "a limit for a broken build: without a watchdog it never ends"
        assert outcome.status is None
        assert outcome.error

    def test_is_left_in_the_middle_of_tls(self) -> None:
        with raw(_drip(b"\x16\x03\x03\x3f\xff", b"\x02")) as url:
            outcome = send(url.replace("http://", "https://"))
        assert outcome.status is None

    def test_that_has_said_yes_has_said_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sender, "TOTAL_S", 3.0)  # on a busy machine it may take a while to say it
        with raw(_drip(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", b"a")) as url:
            assert send(url).succeeded


class TestBrokenServer:
    @pytest.mark.parametrize(
        "answer",
        [
            b"",
            b"SSH-2.0-OpenSSH_9.2\r\n",
            b"HTTP/1.1 xyz\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 5_000,
            b"HTTP/1.1 200 OK\r\nX: " + b"y" * 1_000_000,
            b"\x00\xff" * 1000,
        ],
    )
    def test_is_an_outcome_and_never_an_error(self, answer: bytes) -> None:
        def say(sock: socket.socket, _end: threading.Event) -> None:
            sock.recv(65536)
            sock.sendall(answer)

        with raw(say) as url:
            outcome = send(url)
        assert (outcome.status, outcome.succeeded) == (None, False)
        assert outcome.error

    def test_that_is_not_there_is_one_too(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        assert send(f"http://127.0.0.1:{port}/").error == "The connection was refused."

    def test_that_hangs_up_is_one_too(self, receiver: Receiver) -> None:
        def hang_up(handler: BaseHTTPRequestHandler) -> None:
            handler.connection.shutdown(socket.SHUT_RDWR)

        receiver.usual = hang_up
        assert send(receiver.url).status is None

    def test_leaves_nothing_open(self, receiver: Receiver) -> None:
        """A descriptor that is lost would be told as a warning, which is an error here."""
        for _ in range(20):
            receiver.usual = 500
            send(receiver.url)
        assert threading.active_count() < 60

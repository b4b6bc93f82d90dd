"""What a front takes for a request, what it says of the peer, and how it answers what it does not take."""

from __future__ import annotations

import contextlib
import socket
import ssl

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import load_pem_x509_certificate

from orchestrator.node import limits
from protocol.sizes import MAX_WIRE_BYTES
from tests.orchestrator.node.desk import Desk, desk, read_answer, talk

CHANNEL = "/api/v1/gateways/channel/lease"
GOOD = b"GET /a HTTP/1.1\r\nHost: localhost\r\n\r\n"


def head(*lines: str, method: str = "POST") -> bytes:
    return "\r\n".join([f"{method} /a HTTP/1.1", "Host: localhost", *lines, "", ""]).encode()


@pytest.mark.parametrize(
    ("text", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400),
        (b"GET / HTTP/1.2\r\nHost: a\r\n\r\n", 505),
        (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
        (b"GET / HTTP/0.9\r\nHost: a\r\n\r\n", 505),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (b"GET http://elsewhere/ HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        (b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        (b"CONNECT localhost:443 HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        (b"rubbish\r\n\r\n", 400),
        (b"GET / HTTP/1.1\nHost: a\n\n", 400),
        (b"GET /" + b"a" * 5000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
        (head("X: " + "a" * limits.LARGEST_HEAD, method="GET"), 431),
        (head(*["X: a"] * limits.MOST_FIELDS, method="GET"), 431),
        (head("X: a", " b", method="GET"), 400),
        (head("X : a", method="GET"), 400),
        (head("X: a\0b", method="GET"), 400),
        (head("Expect: a miracle"), 417),
        (head("Content-Length: 99999999999999999999"), 413),
        (head(f"Content-Length: {limits.LARGEST_BODY + 1}"), 413),
        (head("Content-Length: -1"), 400),
        (head("Content-Length: +5"), 400),
        (head("Content-Length: 5, 5"), 400),
        (head("Content-Length: 5", "Content-Length: 5"), 400),
        (head("Content-Length: 5", "Content-Length: 6"), 400),
        (head("Content-Length: 5", "Transfer-Encoding: chunked"), 400),
        (head("Transfer-Encoding: chunked", "Content-Length: 5"), 400),
        (head("Transfer-Encoding: gzip, chunked"), 501),
        (head("Transfer-Encoding: chunked", "Transfer-Encoding: chunked"), 400),
        (b"POST /a HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 501),
        (head("Transfer-Encoding: chunked") + b"zz\r\n", 400),
        (head("Transfer-Encoding: chunked") + b"100001\r\n" + b"a" * 0x100001 + b"\r\n0\r\n\r\n", 413),
    ],
)
def test_what_is_no_request_is_refused_at_once_in_the_error_shape(front: Desk, text: bytes, status: int) -> None:
    answer = front.raw(text)
    assert answer.status == status, answer.body
    assert answer.json.keys() == {"error", "code"} and answer.headers["connection"] == "close"
    assert front.ask("/after").status == 200


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        b"GET /a HTTP/1.0\r\n\r\n",
        b"GET http://localhost/a HTTP/1.1\r\nHost: LOCALHOST\r\n\r\n",
        b"GET /a HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\r\n",
        head("Transfer-Encoding: chunked") + b"1\r\na\r\n0\r\nHost: elsewhere\r\nX-A: b\r\n\r\n",
    ],
)
def test_what_can_be_read_in_one_way_is_taken(front: Desk, text: bytes) -> None:
    answer = front.raw(text)
    assert answer.status == 200 and answer.json["PATH_INFO"] == "/a"
    assert answer.json.get("HTTP_HOST", "localhost").lower() == "localhost"


def test_nothing_a_client_writes_says_who_it_is_or_where_it_asks(front: Desk) -> None:
    der = load_pem_x509_certificate((front.folder / "node.crt").read_bytes()).public_bytes(Encoding.DER)
    seen = front.ask(
        "/a", "SCRIPT_NAME: /api/v1/auth", "Script-Name: /api/v1/auth", "PATH_INFO: /b", "X-Forwarded-For: 10.0.0.1",
        "X-Forwarded-Proto: http", "X-Forwarded-Host: elsewhere", "Forwarded: for=10.0.0.1", "REMOTE_ADDR: 10.0.0.1",
        "Remote-Addr: 10.0.0.1", f"mazevault.peer_certificate: {der.hex()}", "X-SSL-Client-Verify: SUCCESS", "X_A: b",
        f"gunicorn.socket: {der.hex()}", "wsgi.url_scheme: http", "SERVER_PORT: 80",
    ).json  # fmt: skip
    assert seen["SCRIPT_NAME"] == "" and seen["PATH_INFO"] == "/a" and seen["REMOTE_ADDR"] == "127.0.0.1"
    assert seen["certificate"] is None and seen["wsgi.url_scheme"] == "https" and seen["SERVER_PORT"] == "443"
    assert seen["HTTP_SCRIPT_NAME"] == "/api/v1/auth" and "HTTP_X_A" not in seen and "HTTP_PATH_INFO" not in seen


def test_the_certificate_of_the_socket_is_handed_on(front: Desk) -> None:
    der = load_pem_x509_certificate((front.folder / "node.crt").read_bytes()).public_bytes(Encoding.DER)
    assert front.ask("/a", known=True).json["certificate"] == der.hex()
    assert front.ask(CHANNEL, known=True).json["worker"] == "machine"
    assert front.ask("/api/v1/gateways/%63hannel/lease", known=True).json["worker"] == "machine"
    assert front.ask("/api/v1/projects", known=True).json["worker"] == "people-0"


def test_a_sealed_message_may_be_longer_than_what_people_send(front: Desk) -> None:
    body = b"a" * (limits.LARGEST_BODY + 1)
    assert len(front.ask(CHANNEL, known=True, method="POST", body=body).json["body"]) == len(body)
    assert front.raw(head(f"Content-Length: {MAX_WIRE_BYTES + 1}").replace(b"/a", CHANNEL.encode())).status == 413


def test_requests_sent_ahead_are_answered_in_their_order(front: Desk) -> None:
    with contextlib.closing(front.connect()) as connection:
        connection.sendall(b"".join(GOOD.replace(b"/a", b"/%d" % number) for number in range(5)))
        received = b""
        while received.count(b"HTTP/1.1 200") < 5 or not received.endswith(b"}"):
            received += connection.recv(65536)
        places = [received.index(b'"PATH_INFO": "/%d"' % number) for number in range(5)]
        assert places == sorted(places)
    with contextlib.closing(front.connect()) as connection:
        connection.sendall(GOOD * (limits.MOST_PIPELINED + 5))
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            while connection.recv(65536):
                pass
    assert front.ask("/after").status == 200


def test_a_body_that_is_announced_is_asked_for(front: Desk) -> None:
    with contextlib.closing(front.connect()) as connection:
        connection.sendall(head("Content-Length: 3", "Expect: 100-continue"))
        assert read_answer(connection).status == 100
        connection.sendall(b"abc")
        assert read_answer(connection).json["body"] == "abc"


def test_streams_arrive_whole_and_broken_ones_do_not_look_whole(front: Desk) -> None:
    assert front.ask("/stream?2000").body == b"x" * 2_000_000
    assert front.ask("/stream?1").headers["content-length"] == "1000"
    assert front.ask("/stream?2000", method="HEAD").body == b""
    with pytest.raises((EOFError, ConnectionError, ssl.SSLError)):
        front.ask("/broken")
    old = front.raw(b"GET /stream?3 HTTP/1.0\r\n\r\n")
    assert old.headers["connection"] == "close" and "transfer-encoding" not in old.headers


def test_a_reader_who_takes_nothing_loses_the_connection_and_holds_no_thread(front: Desk) -> None:
    with contextlib.closing(front.connect()) as connection:
        connection.sendall(GOOD.replace(b"/a", b"/stream?400"))
        assert front.ask("/after").status == 200


def test_a_browser_is_told_to_stay_with_tls(front: Desk) -> None:
    assert front.ask("/a").headers["strict-transport-security"] == "max-age=31536000"
    assert front.raw(b"GET / HTTP/1.1\r\n\r\n").headers["strict-transport-security"] == "max-age=31536000"


def test_tls_1_2_and_plain_text_are_no_way_in(front: Desk) -> None:
    context = ssl.create_default_context(cafile=str(front.folder / "node.crt"))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError), socket.create_connection(("127.0.0.1", front.port), 10) as raw:
        context.wrap_socket(raw, server_hostname="localhost")
    with socket.create_connection(("127.0.0.1", front.port), 10) as raw:
        raw.sendall(GOOD)
        with contextlib.suppress(ConnectionError):
            assert b"HTTP/1.1 200" not in raw.recv(1000)


def test_without_tls_it_serves_too_and_promises_none(tmp_path_factory: pytest.TempPathFactory) -> None:
    with desk(tmp_path_factory.mktemp("p"), secure=False) as plain, contextlib.closing(plain.connect()) as connection:
        first, second = talk(connection, "/a"), talk(connection, "/b")
    assert first.json["wsgi.url_scheme"] == "http" and first.json["certificate"] is None
    assert "strict-transport-security" not in first.headers and second.json["PATH_INFO"] == "/b"


def test_the_private_sockets_are_private(front: Desk) -> None:
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in front.folder.glob("*.sock"))
    assert len(list(front.folder.glob("*.sock"))) == 2

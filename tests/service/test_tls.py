"""TLS with real certificates: who is let in, and a certificate that is replaced under way."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from api.tls import tls_context
from core.errors import StartRefused
from core.settings import Settings
from tests.processes import ROOT, Service, until

pytestmark = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="no openssl to make certificates with"
)


class Authority:
    """Makes certificates, of itself and for others, in a directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.file = directory / "ca.pem"
        self._openssl(
            "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
            "-days", "2", "-subj", "/CN=tests", "-keyout", "ca.key", "-out", "ca.pem",
            "-addext", "keyUsage=critical,keyCertSign,cRLSign",
        )  # fmt: skip

    def make(self, name: str, *phrase: str) -> tuple[Path, Path]:
        """(certificate, key) for this machine; another one each time, in the same files."""
        self._openssl(
            "req", "-x509", "-CA", "ca.pem", "-CAkey", "ca.key", "-newkey", "ec",
            "-pkeyopt", "ec_paramgen_curve:prime256v1", *(phrase or ("-nodes",)), "-days", "2",
            "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.pem",
            "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost",
            "-addext", "basicConstraints=critical,CA:FALSE",
        )  # fmt: skip
        return self._directory / f"{name}.pem", self._directory / f"{name}.key"

    def _openssl(self, *words: str) -> None:
        subprocess.run(
            ["openssl", *words], cwd=self._directory, check=True, capture_output=True, timeout=60
        )


class Caller:
    """Calls a service over TLS; ``own``: its certificate and key."""

    def __init__(self, url: str, authority: Authority, own: tuple[Path, Path] | None) -> None:
        self._port = int(url.rpartition(":")[2])
        self._context = ssl.create_default_context(cafile=authority.file)
        if own is not None:
            self._context.load_cert_chain(*own)

    def connect(self) -> http.client.HTTPSConnection:
        return http.client.HTTPSConnection(
            "127.0.0.1", self._port, timeout=30, context=self._context
        )

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        connection = self.connect()
        content = None if body is None else json.dumps(body)
        connection.request(method, path, content, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        found = json.loads(answer.read() or b"null")
        connection.close()
        return answer.status, found

    def serial(self) -> str:
        """The number of the certificate that is shown."""
        connection = self.connect()
        connection.connect()
        assert isinstance(connection.sock, ssl.SSLSocket)
        shown = connection.sock.getpeercert()
        assert shown is not None
        connection.close()
        return str(shown["serialNumber"])

    def turned_away(self) -> bool:
        """True if not even a handshake comes about. TLS 1.3 tells that with the first answer."""
        try:
            self.ask("GET", "/healthz")
        except (OSError, http.client.HTTPException):
            return True
        return False


def test_a_service_over_tls(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    cert, key = authority.make("server")
    own = authority.make("client")
    (tmp_path / "other").mkdir()
    stranger = Authority(tmp_path / "other").make("client")
    flags = ("--tls-cert", str(cert), "--tls-key", str(key), "--tls-client-ca", str(authority.file))
    with Service("--data", str(tmp_path / "var"), *flags) as service:
        url = service.url()
        assert url.startswith("https://127.0.0.1:")
        caller = Caller(url, authority, own)
        assert caller.ask("PUT", "/v1/channels/web", {"floor_share": 1})[0] == 201
        assert caller.ask("PUT", "/v1/skus/tee", {})[0] == 201
        lines = [{"sku": "tee", "location": "main", "quantity": 3}]
        assert caller.ask("POST", "/v1/stock/receive", {"lines": lines})[0] == 200
        basket = {"channel": "web", "lines": [{"sku": "tee", "quantity": 2}]}
        large = {"reservations": [basket | {"reference": "x" * 128}] * 1_000}
        status, found = caller.ask("POST", "/v1/reservations/batch", large)
        assert (status, len(found["results"])) == (200, 1_000)
        assert sum(each["status"] == 201 for each in found["results"]) == 1
        assert caller.ask("POST", "/v1/reservations", {"lines": "x" * 2**21})[0] == 413
        # Who has no certificate of the authority, or speaks no TLS, is not let in.
        assert Caller(url, authority, None).turned_away()
        assert Caller(url, authority, stranger).turned_away()
        with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))) as plain:
            plain.settimeout(30)
            plain.sendall(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
            assert b"HTTP" not in plain.recv(100)
        before = caller.serial()
        authority.make("server")
        service.signal(signal.SIGHUP)
        until(lambda: caller.serial() != before, "the new certificate is shown", 60)
        service.hears("everything is renewed")
        known = caller.serial()
        key.write_text("no key")
        service.signal(signal.SIGHUP)
        assert str(key) in service.hears("what was not replaced yet goes on")
        assert (caller.serial(), caller.ask("GET", "/healthz")[0]) == (known, 200)


def test_a_crowd_comes_over_tls_with_a_key(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    cert, key = authority.make("server")
    flags = ("--data", str(tmp_path / "var"), "--tls-cert", str(cert), "--tls-key", str(key))
    scopes = ("reserve", "fulfil", "stock:read", "stock:write", "quota:write", "operate")
    with Service(*flags) as service:
        url = service.url()
        secret = command(
            tmp_path, "api.cli", "keys", "create", "--data", str(tmp_path / "var"), "--name",
            "crowd", *(word for scope in scopes for word in ("--scope", scope)),
        ).strip()  # fmt: skip
        said = command(
            tmp_path, "loadtest", "mixed-verbs", "--url", url, "--key", secret, "--set",
            "seconds=2", "--set", "rate=20", "--set", "abandon=0",
            SSL_CERT_FILE=str(authority.file),
        )  # fmt: skip
    assert "errors    0" in said
    assert "audit     passed: oversold 0" in said


def command(cwd: Path, module: str, *words: str, **environ: str) -> str:
    """What a command that works prints."""
    done = subprocess.run(
        [sys.executable, "-m", module, *words], cwd=cwd, capture_output=True, text=True,
        check=False, timeout=120, env=os.environ | {"PYTHONPATH": str(ROOT)} | environ,
    )  # fmt: skip
    assert done.returncode == 0, (done.stdout, done.stderr)
    return done.stdout


def test_files_that_cannot_be_used_are_one_line(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    cert, key = authority.make("server")
    other, locked = authority.make("other", "-passout", "pass:secret")
    assert tls_context(Settings()) is None
    assert tls_context(Settings(tls_cert=cert, tls_key=key)) is not None
    for made, said in (
        (Settings(tls_cert=cert, tls_key=tmp_path / "nothing"), "No such file"),
        (Settings(tls_cert=other, tls_key=key), "key values mismatch"),
        (Settings(tls_cert=key, tls_key=key), "tls_cert"),
        (Settings(tls_cert=other, tls_key=locked), "pass phrase"),
        (Settings(tls_cert=cert, tls_key=key, tls_client_ca=key), "tls_client_ca"),
    ):
        with pytest.raises(StartRefused) as refused:
            tls_context(made)
        assert said in refused.value.detail
        assert "\n" not in refused.value.detail

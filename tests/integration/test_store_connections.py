"""Every kind of address reaches the store with both of its clients, and its durability is told."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import pytest

from core.embedded.valkey import EmbeddedValkey
from core.errors import DurabilityUnavailable, StartRefused
from core.model import Commit, Release
from tests.faults.proxy import Proxy
from tests.workers import Store, Workers, client, demand, furnish

Fresh = Callable[..., Awaitable[EmbeddedValkey]]

PASSWORD = "p@ss: w/rd%"


class Addresses:
    """The ways to one server with a password and an ACL user ``shop``: Unix socket, TCP, TLS."""

    def __init__(self, socket: Path, tcp: Proxy, tls: Proxy | None, certificate: Path) -> None:
        self.socket = socket
        self.tcp = tcp
        self.tls = tls
        self.certificate = certificate

    def url(self, kind: str, password: str = PASSWORD) -> str:
        """The URL of one way."""
        secret = quote(password, safe="")
        ca = f"ssl_ca_certs={self.certificate}"
        tls_port = self.tls.port if self.tls is not None else 0
        return {
            "unix": f"unix://:{secret}@{self.socket}",
            "unix user db": f"unix://shop:{secret}@{self.socket}?db=3",
            "tcp": f"redis://:{secret}@127.0.0.1:{self.tcp.port}",
            "tcp user db": f"redis://shop:{secret}@127.0.0.1:{self.tcp.port}/4",
            "tls": f"rediss://:{secret}@127.0.0.1:{tls_port}?{ca}",
            "tls by name": f"rediss://:{secret}@localhost:{tls_port}?{ca}",
            "tls unchecked": f"rediss://:{secret}@127.0.0.1:{tls_port}?ssl_cert_reqs=none",
            "tls unvouched": f"rediss://:{secret}@127.0.0.1:{tls_port}",
        }[kind]


def _certificate(directory: Path) -> ssl.SSLContext:
    """A self-signed one for this machine."""
    subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt",
            "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj", "/CN=localhost",
            "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
            "-keyout", "key.pem", "-out", "cert.pem",
        ],
        cwd=directory, check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "cert.pem", directory / "key.pem")
    return context


@pytest.fixture
async def addresses(
    fresh_valkey: Fresh, tmp_path: Path
) -> AsyncIterator[Addresses]:
    """A running server and what stands before it; no TLS where there is no openssl."""
    server = await fresh_valkey()
    with closing(client(server.url)) as plain:
        plain.acl_setuser(
            "shop", enabled=True, passwords=[f"+{PASSWORD}"], keys=["*"], commands=["+@all"]
        )
        plain.config_set("requirepass", PASSWORD)
    tcp, tls = Proxy(server.socket), None
    await tcp.start()
    if shutil.which("openssl") is not None:
        tls = Proxy(server.socket, tls=_certificate(tmp_path))
        await tls.start()
    yield Addresses(server.socket, tcp, tls, tmp_path / "cert.pem")
    for each in filter(None, (tcp, tls)):
        await each.stop()


async def test_all_addresses_work(
    addresses: Addresses, workers: Workers, tmp_path: Path
) -> None:
    """Reserve by the lane's connection, policy and reads by the other; each in its database."""
    kinds = {"unix": 0, "unix user db": 3, "tcp": 0, "tcp user db": 4}
    if addresses.tls is not None:
        kinds |= {"tls": 0, "tls by name": 0, "tls unchecked": 0}
    received: set[int] = set()
    for kind, database in kinds.items():
        service = await workers(addresses.url(kind), data=tmp_path / kind, audited=False)
        if database not in received:
            await furnish(service, {"tee": 3})
            received.add(database)
        held = await service.engine.reserve(demand())
        if kind in ("unix", "tcp user db"):
            await service.engine.commit(held.id, Commit())
        else:
            await service.engine.release(held.id, Release())
        pool = (await service.stock.read(["tee"]))[0].pools[0]
        assert pool.on_hand == 3  # a database of its own, or the same one by another way
        shown = str(service.readiness())
        assert PASSWORD not in shown
        assert quote(PASSWORD, safe="") not in shown
        await workers.close(service)


@pytest.mark.parametrize("kind", ["unix", "tcp", "tls unvouched"])
async def test_a_wrong_password_or_certificate_is_one_line(
    addresses: Addresses, workers: Workers, kind: str
) -> None:
    """The start is refused, and the line does not repeat the secret."""
    if "tls" in kind and addresses.tls is None:
        pytest.skip("no openssl to make a certificate with")
    wrong = "not-the-password"
    with pytest.raises(StartRefused) as refused:
        await workers(addresses.url(kind, wrong), audited=False)
    said = str(refused.value)
    assert "\n" not in said
    assert wrong not in said
    assert "***" in said


async def test_an_address_where_nobody_listens_is_one_line(
    workers: Workers, tmp_path: Path
) -> None:
    """At once, not after a row of time-outs."""
    listener = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    listener.close()
    await listener.wait_closed()
    for url in (f"redis://127.0.0.1:{port}", f"unix://{tmp_path}/nobody"):
        with pytest.raises(StartRefused) as refused:
            await workers(url, audited=False)
        assert "\n" not in str(refused.value)
        assert "does not answer" in str(refused.value)


# --- durability --------------------------------------------------------------------------------


@pytest.mark.parametrize("setting", ["appendfsync", "appendonly"])
async def test_a_store_weaker_than_the_setting_is_refused(
    fresh_valkey: Fresh, workers: Workers, setting: str
) -> None:
    """The line names what to change in the store, and what to set to live with it."""
    server = await fresh_valkey(appendfsync="everysec" if setting == "appendfsync" else "always")
    if setting == "appendonly":
        plain = client(server.url)
        plain.config_set("appendonly", "no")
        plain.close()
    with pytest.raises(StartRefused) as refused:
        await workers(server.url)
    said = str(refused.value)
    assert "\n" not in said
    assert f"{setting} is " in said
    assert "appendfsync always" in said
    assert "STOCKADE_DURABILITY=memory" in said
    weak = await workers(server.url, durability="memory")
    assert weak.readiness()["durability"] == "memory"
    await furnish(weak, {"tee": 3})
    with pytest.raises(DurabilityUnavailable):
        await weak.engine.reserve(demand(durability="fsync"))
    held = await weak.engine.reserve(demand(durability="memory"))
    assert held.reservation().durability == "memory"
    with pytest.raises(DurabilityUnavailable):
        await weak.engine.commit(held.id, Commit(durability="fsync"))


async def test_config_that_cannot_be_read_counts_as_memory(
    store_url: str, store: Store, workers: Workers
) -> None:
    """An ACL that refuses CONFIG: the durability is not known, so it is not promised."""
    store.acl_setuser(
        "shop", enabled=True, passwords=["+pw"], keys=["*"], commands=["+@all", "-config"]
    )
    url = store_url.replace("unix://", "unix://shop:pw@")
    try:
        with pytest.raises(StartRefused) as refused:
            await workers(url, audited=False)
        assert "CONFIG GET is refused" in str(refused.value)
        service = await workers(url, audited=False, durability="memory")
        assert service.readiness()["durability"] == "memory"
        await workers.close(service)
    finally:
        store.acl_deluser("shop")

"""Links that are sealed as Ray's own are: a real replica, the gateway's own dialer, certificates made here."""

import asyncio
import contextlib
import socket
import ssl

import pytest
import uvloop

from muleteer.base.clock import MonotonicClock
from muleteer.base.errors import UsageError
from muleteer.gateway.dial import Dialer
from muleteer.gateway.link import Link as GatewayLink
from muleteer.spec.snapshot import ReplicaAddress
from muleteer.wire import tls
from muleteer.wire.frames import FrameType
from tests.certificates import authority, certificate
from tests.replica.processes import DEADLINE_S, Link

SECRET = "5ec2e7" * 8
SOURCE = """
    import threading
    class Model:
        def predict(self, text="", size=0):
            return [threading.current_thread() is threading.main_thread(), text, "x" * size]
"""
WAITING = """
    import pathlib, time
    while not pathlib.Path(__file__).with_name("go").exists():
        time.sleep(0.01)
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Variables of a `node`, a `server` of the same cluster, and a `stranger` to it."""
    folder = tmp_path_factory.mktemp("certificates")
    cluster, other = authority(folder), authority(folder, "other")
    return {
        "node": certificate(folder, "node", cluster),
        "server": certificate(folder, "server", cluster),
        "stranger": certificate(folder, "stranger", other),
    }


@pytest.fixture
def be(monkeypatch):
    """`be(variables)`: this process has these files from now on."""

    def be(variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        tls.client_context.cache_clear()
        tls.server_context.cache_clear()

    yield be
    be({})


@pytest.fixture
def node(start, files):
    """`node(**config)` → a replica on TCP that seals its links."""
    return lambda **config: start(SOURCE, tcp=True, env={"MULETEER_SECRET": SECRET, **files["node"]}, **config)


@contextlib.contextmanager
def sealed(replica):
    """A link that has said nothing, through TLS."""
    link = Link(replica.address, lambda channel: tls.client_context().wrap_socket(channel))
    try:
        yield link
    finally:
        link.close()


def hello(link, secret):
    link.send(FrameType.HELLO, payload=b'{"protocol":1,"gateway":"g","secret":"%s"}' % secret.encode())


def greet(link):
    hello(link, SECRET)
    return link.wait_for(lambda frame: frame.type is FrameType.READY)


@pytest.mark.parametrize("concurrency", [1, 2], ids=["plain", "several at once"])
def test_calls_go_through_and_a_plain_model_keeps_the_main_thread(node, files, be, concurrency):
    be(files["server"])
    replica = node(concurrency=concurrency)
    with sealed(replica) as link:
        assert link.channel.version() == "TLSv1.3"
        greet(link)
        size = 3_000_000  # many records each way, more than a socket takes at once
        value, error = link.ask({"text": "y" * size, "size": size})
        assert error is None
        assert value == [concurrency == 1, "y" * size, "x" * size]
        replica.terminate()
        link.wait_for(lambda frame: frame.type is FrameType.DRAIN)
        link.send(FrameType.DRAIN)
        assert replica.wait_exit() == 0


@pytest.mark.parametrize("concurrency", [1, 2], ids=["plain", "several at once"])
def test_who_has_no_certificate_of_the_cluster_is_refused(node, files, be, concurrency):
    replica = node(concurrency=concurrency)

    # it believes the cluster's authority, but is not of it: told so, or cut off, at its first read
    be(files["stranger"] | {"RAY_TLS_CA_CERT": files["node"]["RAY_TLS_CA_CERT"]})
    with sealed(replica) as link:
        with contextlib.suppress(OSError):
            hello(link, SECRET)
            link.wait_for_end()
        assert link.frames == []
    replica.wait_stderr("certificate")

    be(files["server"])  # and it still serves who is
    with sealed(replica) as link:
        greet(link)
        assert link.ask({})[1] is None


def test_who_speaks_no_tls_gets_no_answer(node):
    replica = node()
    plain = Link(replica.address)
    hello(plain, SECRET)
    plain.wait_for_end()
    assert plain.frames == []
    plain.close()


def test_the_secret_counts_behind_tls_too(node, files, be):
    be(files["server"])
    replica = node()
    with sealed(replica) as link:
        hello(link, "wrong")
        link.wait_for_end()
        assert link.frames == []
    replica.wait_stderr("does not know the secret")


class Owner:
    def __init__(self):
        self.ready = asyncio.Event()
        self.lost = asyncio.Event()

    def link_ready(self, link):
        self.ready.set()

    def link_lost(self, link, calls, error):
        self.lost.set()


@contextlib.asynccontextmanager
async def dialled(address):
    """The gateway's end of a link to `tls:` address, as a gateway keeps it."""
    owner = Owner()

    def new_link(name):
        return GatewayLink(
            backend="m", replica=name, gateway="g", payload_max=1024, owner=owner, clock=MonotonicClock()
        )

    host, port = address
    dialer = Dialer(ReplicaAddress("m-0", f"tls:{host}:{port}", SECRET), new_link)
    dialer.open()
    try:
        yield dialer, owner
    finally:
        await dialer.close()


def test_a_gateway_dials_while_the_model_loads_and_hears_of_its_death_at_once(start, files, be):
    be(files["server"])
    source = SOURCE + WAITING
    replica = start(source, ready=False, tcp=True, env={"MULETEER_SECRET": SECRET, **files["node"]})

    async def live():
        async with dialled(replica.address) as (dialer, owner):
            await asyncio.sleep(0.1)
            assert not owner.ready.is_set()
            (replica.folder / "go").touch()
            async with asyncio.timeout(DEADLINE_S):
                await owner.ready.wait()
                channel = dialer.link._transport.get_extra_info("socket")
                assert channel.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 3000
                replica.process.kill()
                await asyncio.to_thread(replica.process.wait)  # dead, and its end of the link closed
                for _ in range(100):  # of our own time, a second at least: the kernel's probes would take three
                    if not owner.lost.is_set():
                        await asyncio.sleep(0.01)
                assert owner.lost.is_set()

    uvloop.run(live())


def test_a_gateway_shows_its_secret_to_no_stranger(files, be, capfd):
    """Nor to one that does not speak TLS at all."""
    be(files["server"])
    stranger = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    stranger.load_cert_chain(files["stranger"]["RAY_TLS_SERVER_CERT"], files["stranger"]["RAY_TLS_SERVER_KEY"])

    async def live(context):
        heard = []

        async def talk(reader, writer):
            with contextlib.suppress(OSError):
                heard.append(await reader.read(4096))
            writer.close()

        server = await asyncio.start_server(talk, "127.0.0.1", 0, ssl=context)
        async with server, dialled(server.sockets[0].getsockname()):
            text = ""
            for _ in range(int(DEADLINE_S / 0.01)):
                text += capfd.readouterr().err
                if heard if context is None else "certificate" in text:
                    break
                await asyncio.sleep(0.01)
            assert ("replica not linked" in text) == (context is not None)
        return heard

    assert uvloop.run(live(stranger)) == []
    first = uvloop.run(live(None))[0]
    assert first
    assert SECRET.encode() not in first


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"RAY_TLS_CA_CERT": ""}, "RAY_USE_TLS is set and RAY_TLS_CA_CERT is not"),
        ({"RAY_TLS_SERVER_KEY": "/nowhere.key"}, "RAY_TLS_SERVER_KEY: cannot read /nowhere.key: No such file"),
        ({"RAY_TLS_SERVER_CERT": __file__}, f"RAY_TLS_SERVER_CERT {__file__} and RAY_TLS_SERVER_KEY"),
        ({"RAY_TLS_CA_CERT": __file__}, f"RAY_TLS_CA_CERT {__file__} is of no use"),
    ],
    ids=["not set", "missing", "not one", "no authority"],
)
def test_files_that_are_missing_or_wrong_are_named(start, files, be, change, said):
    be(files["node"] | change)
    with pytest.raises(UsageError, match=said):
        tls.client_context()
    with pytest.raises(UsageError, match=said):
        tls.server_context()


def test_a_replica_without_its_files_does_not_start(start, files):
    env = files["node"] | {"RAY_TLS_SERVER_KEY": "/nowhere.key"}
    replica = start(SOURCE, ready=False, tcp=True, env={"MULETEER_SECRET": SECRET, **env})
    failed = replica.wait_message("failed")
    assert failed["reason"] == "tls"
    assert "cannot read /nowhere.key" in failed["message"]
    assert replica.wait_exit() == 1

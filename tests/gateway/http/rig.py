"""A real HttpServer on uvloop in a thread, with small applications, and raw clients. Shared with the fuzzer."""

import asyncio
import contextlib
import socket
import threading

import msgspec
import uvloop

from muleteer.base.errors import ClientError, MethodNotAllowed, NotFound, OutOfMemory, Refused
from muleteer.gateway.exchange import Response
from muleteer.gateway.http.bounds import HttpBounds
from muleteer.gateway.http.media import check_json_content_type
from muleteer.gateway.http.server import HttpServer
from tests.waiting import until

BODY_MAX = 1000
HELD_MAX = 100_000
"""Of a body at /scarce that did not announce its size."""
WAIT_S = 40.0
NEVER_S = 30.0
"""Of a limit that a test is not about. Before `WAIT_S`, so that a client sees what it would do."""


def patient(**changes):
    """Only those named are ever reached, also on a machine that stands still for seconds."""
    timeouts = ("header_timeout_s", "body_timeout_base_s", "write_stall_s", "keep_alive_s", "linger_s")
    return HttpBounds(**{"tick_s": 0.01, **dict.fromkeys(timeouts, NEVER_S), **changes})


class Ledgered:
    """An exchange that notes what happened to it: at most one run, one abandon; never an abandon after its answer."""

    body_max = BODY_MAX

    def __init__(self, application, head):
        self.head = head
        self.application = application
        self.body = None
        self.held = 0
        self.runs = self.abandons = self.answers = 0

    def hold(self, size):
        self.held = size
        if self.head.path == "/scarce" and size > HELD_MAX:
            raise OutOfMemory(f"{size} bytes are too many just now")

    def run(self, body):
        self.runs += 1
        self.body = body
        assert self.abandons == 0
        self.application.act(self)

    def abandon(self):
        self.abandons += 1
        assert self.answers == 0, "abandoned after the answer"

    def answer(self, response):
        if not self.abandons:
            self.answers += 1
        self.head.respond(response)


class Routes:
    """The application of these tests; what a path does is its branch in `begin` or `act`."""

    def __init__(self):
        self.exchanges = []
        self.held = []
        self.arrived = threading.Event()

    def begin(self, head):
        path = head.path
        if path == "/refuse":
            raise Refused("the queue is full", retry_after_s=7)
        if path == "/fault-begin":
            raise ZeroDivisionError("of\nbegin")
        if path == "/only-get" and head.method != "GET":
            raise MethodNotAllowed("only GET", allow=("GET", "HEAD"))
        if path == "/json":
            check_json_content_type(head)
        elif path not in PATHS:
            raise NotFound(f"no route {path}")
        exchange = Ledgered(self, head)
        self.exchanges.append(exchange)
        if path == "/at-once":
            exchange.answer(Response(200, b'"at once"'))
        if path in ("/large-body", "/scarce"):
            exchange.body_max = 1 << 22
        if path == "/early":
            asyncio.get_running_loop().call_soon(exchange.answer, Response(200, b'"early"'))
        self.arrived.set()
        return exchange

    def act(self, exchange):
        path = exchange.head.path
        if path in ("/hold", "/late"):
            self.held.append(exchange)
            if path == "/late":
                asyncio.get_running_loop().call_later(0.02, exchange.answer, Response(200, exchange.body))
        elif path == "/fault-run":
            raise ZeroDivisionError("of run")
        elif path == "/refuse-run":
            raise ClientError("not like this")
        elif path == "/inspect":
            exchange.answer(Response(200, msgspec.json.encode(describe(exchange.head))))
        elif path == "/big":
            exchange.answer(Response(200, b"x" * int(exchange.head.query)))
        elif path not in ("/at-once", "/early"):
            exchange.answer(Response(200, exchange.body, b"muleteer-attempts: 1\r\n"))


PATHS = {
    "/echo",
    "/scarce",
    "/hold",
    "/late",
    "/at-once",
    "/early",
    "/only-get",
    "/fault-run",
    "/refuse-run",
    "/inspect",
    "/big",
    "/large-body",
    "/caf\u00e9",
}


def describe(head):
    names = ("method", "path", "headers", "content_length", "request_id", "client")
    return {name: getattr(head, name) for name in names} | {"query": head.query.decode()}


class Served:
    """One server in its thread. `stop` checks what must hold at the end of every test."""

    def __init__(self, application=None, *, bounds=None, connections_max=500):
        self.application = application or Routes()
        self._arguments = {"bounds": bounds or patient(), "connections_max": connections_max}
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.unhandled = []

    def __enter__(self):
        self._thread.start()
        assert self._ready.wait(WAIT_S)
        return self

    def __exit__(self, kind, *_):
        try:
            if kind is None:
                self.quiet()
        finally:
            self.loop.call_soon_threadsafe(self._over.set)
            self._thread.join(WAIT_S)
        assert not self._thread.is_alive()
        if kind is None:
            check_books(self.server.statistics())
            assert self.unhandled == []

    def _run(self):
        uvloop.run(self._main())

    async def _main(self):
        self.loop = asyncio.get_running_loop()
        self.loop.set_exception_handler(lambda _, context: self.unhandled.append(context))
        self._over = asyncio.Event()
        sock = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.port = sock.getsockname()[1]
        self.server = HttpServer(self.application, **self._arguments)
        await self.server.open(sock)
        self._ready.set()
        await self._over.wait()
        await self.server.close()
        assert self.server.statistics().connections == 0

    def call(self, function, *arguments):
        """Run `function` in the loop of the server and return what it returns."""

        async def there():
            result = function(*arguments)
            return await result if asyncio.iscoroutine(result) else result

        return asyncio.run_coroutine_threadsafe(there(), self.loop).result(WAIT_S)

    @property
    def statistics(self):
        return self.call(self.server.statistics)

    def quiet(self):
        """Wait until every request has its outcome."""
        until(lambda: self.statistics.exchanges == 0, "every request has an outcome")
        check_books(self.statistics)
        ledger = [(e.head.path, e.runs, e.answers, e.abandons) for e in getattr(self.application, "exchanges", [])]
        assert all(runs <= 1 and answers + abandons == 1 for _, runs, answers, abandons in ledger), ledger

    def answer(self, exchange, body=b'"done"', status=200):
        self.call(exchange.answer, Response(status, body))

    def held(self, count=1):
        """Wait until so many requests are held by the application."""
        until(lambda: len(self.application.held) >= count, f"{count} held")
        return self.application.held

    def connect(self, **options):
        return Client(self.port, **options)

    def connect_and_send(self, data):
        """The server finds `data` when it accepts, so that no limit can be over before it came."""
        return self.call(lambda: self.connect().send(data))


def check_books(statistics):
    assert statistics.received == sum(statistics.by_status.values()) + statistics.client_gone + statistics.exchanges
    assert sum(statistics.by_code.values()) <= sum(statistics.by_status.values())


class Answer(msgspec.Struct):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self):
        return msgspec.json.decode(self.body)["code"]


class Client:
    """A socket that sends what it is told and reads answers strictly: what it does not understand fails the test."""

    def __init__(self, port, *, receive_buffer=None):
        self.socket = socket.socket()
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(WAIT_S)
        try:
            self.socket.connect(("127.0.0.1", port))
        except OSError:
            self.socket.close()
            raise
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, data):
        self.socket.sendall(data)
        return self

    def send_pieces(self, pieces):
        """As far as the server takes them: it may have refused and closed already."""
        with contextlib.suppress(ConnectionError):
            for piece in pieces:
                self.socket.sendall(piece)
        return self

    def _more(self):
        data = self.socket.recv(1 << 16)
        self._buffer += data
        return bool(data)

    def read(self, *, bodiless=False):
        """The next final answer; None at the end of the stream."""
        while b"\r\n\r\n" not in self._buffer:
            if not self._more():
                assert self._buffer == b"", f"cut short: {self._buffer[:200]!r}"
                return None
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        lines = head.decode("ascii").split("\r\n")
        version, status, _ = lines[0].split(" ", 2)
        assert version == "HTTP/1.1"
        headers = dict(line.split(": ", 1) for line in lines[1:])
        assert len(headers) == len(lines) - 1
        if status == "100":
            return Answer(100, headers, b"")
        length = 0 if bodiless else int(headers["content-length"])
        while len(self._buffer) < length:
            assert self._more(), "the body was cut short"
        body, self._buffer = self._buffer[:length], self._buffer[length:]
        assert headers["x-request-id"]
        assert headers["date"].endswith(" GMT")
        return Answer(int(status), headers, body)

    def closed_by_server(self):
        """Whether the stream ends here (waits for it)."""
        assert self._buffer == b"", self._buffer[:200]
        try:
            return self.socket.recv(1) == b""
        except ConnectionResetError:
            return True

    def reset(self):
        """Leave with RST, as a killed client whose buffers were not empty."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.socket.close()


def post(path="/echo", body=b"{}", *headers, version="1.1"):
    lines = [f"POST {path} HTTP/{version}", "Host: a", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


def get(path="/echo", *headers, method="GET", version="1.1"):
    return "\r\n".join([f"{method} {path} HTTP/{version}", "Host: a", *headers, "", ""]).encode("latin-1")


def chunked(*chunks, path="/echo", headers=()):
    head = "\r\n".join([f"POST {path} HTTP/1.1", "Host: a", "Transfer-Encoding: chunked", *headers, "", ""])
    body = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    return head.encode("latin-1") + body + b"0\r\n\r\n"

"""Which backend a request goes to: by its own wish, by its session, else by weight. Pure, on the hot path; must not
know links or calls.

Sessions are placed by weighted rendezvous hashing: each backend's score is -weight / ln(u), where u in (0, 1) is a hash
of session and backend, and the highest score wins, which gives every backend its exact share (the logarithmic method of
Schindelhauer and Schomaker, "Weighted Distributed Hash Tables", SPAA 2005). No table of sessions is needed, every
gateway decides alike, and raising one backend's share against the others moves sessions to it and nowhere else.
"""

from __future__ import annotations

import hmac
import math
import secrets
from base64 import urlsafe_b64encode
from bisect import bisect
from collections.abc import Callable, Iterable
from functools import lru_cache
from hashlib import blake2b
from itertools import accumulate
from typing import Any, Protocol, TypeVar

import msgspec

from muleteer.base.errors import ClientError
from muleteer.spec.snapshot import EndpointRoute

_ID_BYTES = 16
_SIGNATURE_BYTES = 16  # of HMAC-SHA256; RFC 2104 §5 allows to halve it
_CODE = "ascii"


class Choice(msgspec.Struct, frozen=True, gc=False):
    """Where a request goes.

    Attributes:
        backend: its name.
        number: its place in the endpoint's traffic.
        session: the key that placed it; None if it was placed by weight or by wish.
        set_cookie: a whole `set-cookie` line for the answer, when the session begins here.
    """

    backend: str
    number: int
    session: bytes | None = None
    set_cookie: bytes | None = None


class Named(Protocol):
    """A replica, by whatever stands for it."""

    replica: str


N = TypeVar("N", bound=Named)


class Split:
    """One endpoint's choice of a backend.

    Args:
        route: its weights are finite, ≥ 0, with a sum > 0.
        cookie_key: secret that signs the cookies we issue; the same in every gateway.
    """

    __slots__ = ("_by_name", "_choices", "_last", "_override", "_ranked", "_session", "_sums", "needs_body")

    def __init__(self, route: EndpointRoute, cookie_key: bytes) -> None:
        self._override = route.override
        self._by_name = {name: Choice(name, number) for number, name in enumerate(route.traffic)}
        weighed = {name: weight for name, weight in route.traffic.items() if weight > 0}
        self._choices = tuple(self._by_name[name] for name in weighed)
        self._sums = tuple(accumulate(weighed.values()))
        self._last = len(weighed) - 1
        self._ranked = [(name, name.encode() + b"\0", -weight) for name, weight in weighed.items()]
        self._session: Callable[[dict[str, str], bytes], tuple[bytes | None, bytes | None]] | None = None
        self.needs_body = False
        if route.affinity is not None:
            match route.affinity.source:
                case "header":
                    self._session = HeaderKey(route.affinity.name)
                case "cookie":
                    self._session = CookieKey(route.affinity.name, route.route, cookie_key)
                case "json":
                    self._session = FieldKey(route.affinity.name)
                    self.needs_body = True

    def choose(self, headers: dict[str, str], uniform: Callable[[], float], body: bytes = b"") -> Choice:
        """A place for one request.

        `headers` have lower-case names; `uniform()` gives a number from [0, 1); `body` is looked at only if
        `needs_body`. Raises ClientError if the request wishes for a backend that this endpoint does not have.
        """
        if self._override is not None and (wished := self.wished(headers)) is not None:
            return wished
        if self._session is not None:
            session, set_cookie = self._session(headers, body)
            if session is not None:
                backend = self.place(session)
                return Choice(backend, self._by_name[backend].number, session, set_cookie)
        if not self._last:
            return self._choices[0]
        return self._choices[bisect(self._sums, uniform() * self._sums[-1], 0, self._last)]

    def place(self, session: bytes) -> str:
        """The backend of a session: the same as long as the weights are."""
        best, winner = -1.0, ""
        for name, seed, negative_weight in self._ranked:
            score = negative_weight / math.log(_uniform(seed, session))
            if score > best:
                best, winner = score, name
        return winner

    @property
    def backends(self) -> list[str]:
        """Those that get requests by weight."""
        return [choice.backend for choice in self._choices]

    def wished(self, headers: dict[str, str]) -> Choice | None:
        """The backend that a request names itself, where it may. An explicit header must name one: ClientError; a
        cookie may be left over from one that is gone.
        """
        override = self._override
        if override is None:
            return None
        if override.header is not None and (name := headers.get(override.header)) is not None:
            found = self._by_name.get(name)
            if found is None:
                raise ClientError(f"{override.header}: this endpoint has {', '.join(sorted(self._by_name))}")
            return found
        if override.cookie is not None:
            return self._by_name.get(cookie_value(headers.get("cookie", ""), override.cookie) or "")
        return None


def sticky(session: bytes, ready: Iterable[N]) -> N | None:
    """The replica of a session among those that are ready; one that leaves moves only its own sessions."""
    return max(ready, key=lambda each: _uniform(each.replica.encode() + b"\0", session), default=None)


def _uniform(seed: bytes, key: bytes) -> float:
    """A number from (0, 1), the same for the same seed and key in every process."""
    return (int.from_bytes(blake2b(seed + key, digest_size=8).digest()) + 1) / (2**64 + 2**12)


# where the key comes from: each gives (key or None, set-cookie line or None)


class HeaderKey:
    """The value of a request header."""

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, headers: dict[str, str], _body: bytes) -> tuple[bytes | None, None]:
        """No header, or an empty one: no session."""
        value = headers.get(self._name)
        return (value.encode("utf-8", "surrogateescape"), None) if value else (None, None)


class CookieKey:
    """A random id in a cookie that only we can have issued, for this route."""

    __slots__ = ("_cookie_key", "_name", "_path", "_scope")

    def __init__(self, name: str, path: str, cookie_key: bytes) -> None:
        self._name = name
        self._path = path
        self._cookie_key = cookie_key
        self._scope = f"{name}\0{path}\0".encode()

    def __call__(self, headers: dict[str, str], _body: bytes) -> tuple[bytes, bytes | None]:
        """Always a session: without a valid cookie a new one begins."""
        value = cookie_value(headers.get("cookie", ""), self._name)
        if value is not None:
            id, dot, signature = value.partition(".")
            if dot and value.isascii() and hmac.compare_digest(signature, self._sign(id)):
                return id.encode(_CODE), None
        id = _base64(secrets.token_bytes(_ID_BYTES))
        cookie = f"{self._name}={id}.{self._sign(id)}; Path={self._path}; HttpOnly; SameSite=Lax"
        return id.encode(_CODE), f"set-cookie: {cookie}\r\n".encode(_CODE)

    def _sign(self, id: str) -> str:
        return _base64(hmac.digest(self._cookie_key, self._scope + id.encode(_CODE), "sha256")[:_SIGNATURE_BYTES])


@lru_cache(maxsize=256)
def _decoder_of(field: str) -> msgspec.json.Decoder[Any]:
    """Making the type takes a fraction of a millisecond, and thousands of endpoints have few names for their field."""
    shape = msgspec.defstruct("Body", [("key", str | int | None, None)], rename={"key": field}.get)
    return msgspec.json.Decoder(shape)


class FieldKey:
    """A text or whole number at the top level of a JSON body. Only this field is decoded."""

    __slots__ = ("_decode",)

    def __init__(self, name: str) -> None:
        self._decode = _decoder_of(name).decode

    def __call__(self, _headers: dict[str, str], body: bytes) -> tuple[bytes | None, None]:
        """A body that is no such object has no session; the replica says what is wrong with it."""
        try:
            key = self._decode(body).key
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None, None
        return (None, None) if key is None or key == "" else (str(key).encode("utf-8", "surrogatepass"), None)


def cookie_value(header: str, name: str) -> str | None:
    """The first cookie of that name in a `cookie` header (RFC 6265 §5.4), or None."""
    if name not in header:
        return None
    for pair in header.split(";"):
        key, equals, value = pair.partition("=")
        if equals and key.strip() == name:
            return value.strip()
    return None


def _base64(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode(_CODE)

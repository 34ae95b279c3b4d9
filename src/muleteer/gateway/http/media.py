"""What a body is made of, as its headers say. Must not know how it is read."""

from __future__ import annotations

import re
from typing import Final, Literal

from muleteer.base.errors import UnsupportedMediaType
from muleteer.gateway.exchange import Head

Coding = Literal["identity", "gzip", "deflate"]

_CODINGS: Final[dict[str, Coding]] = {
    "identity": "identity",
    "gzip": "gzip",
    "x-gzip": "gzip",  # RFC 9110, 8.4.1.3: the same thing
    "deflate": "deflate",
}
_JSON = re.compile(
    r"application/(?:[a-z0-9!#$&^_.-]+\+)?json(?:[ \t]*;[ \t]*charset=\"?utf-?8\"?)?[ \t]*;?", re.IGNORECASE
)


def content_coding(headers: dict[str, str]) -> Coding:
    """The one coding of the body. Raises UnsupportedMediaType for any other, and for more than one."""
    name = headers.get("content-encoding")
    if name is None:
        return "identity"
    coding = _CODINGS.get(name.lower())
    if coding is None:
        raise UnsupportedMediaType("Content-Encoding must be gzip or deflate, once")
    return coding


def check_json_content_type(head: Head) -> None:
    """For routes that take JSON: no Content-Type at all counts as JSON. Raises UnsupportedMediaType."""
    value = head.headers.get("content-type")
    if value is None or value == "application/json":
        return
    if _JSON.fullmatch(value) is None:
        raise UnsupportedMediaType(
            "Content-Type must be application/json, in UTF-8 (curl -H 'content-type: application/json')"
        )

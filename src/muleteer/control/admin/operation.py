"""What one operation of the admin API is: the routes and the OpenAPI document are both made from such rows. Must not
know the web framework.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Literal, Protocol

import msgspec
from msgspec import Meta

from muleteer.base.errors import SpecError
from muleteer.control.commands import Commands
from muleteer.control.explain import Explanation
from muleteer.control.rolling import Rolling

Method = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]
Shape = dict[str, Any]
"""A part of `muleteer.yaml` as JSON; `spec.shape` reads it."""
SCHEMAS = "#/components/schemas"
FileShape = Annotated[Shape, Meta(extra_json_schema={"$ref": f"{SCHEMAS}/File"})]
BackendShape = Annotated[Shape, Meta(extra_json_schema={"$ref": f"{SCHEMAS}/Backend"})]
EndpointShape = Annotated[Shape, Meta(extra_json_schema={"$ref": f"{SCHEMAS}/Endpoint"})]


class BadRequestError(SpecError):
    """The request itself is wrong, whatever is declared."""


class Control(Protocol):
    """What the admin API asks."""

    commands: Commands
    rolling: Rolling

    async def status(self) -> dict[str, Any]:
        """The answer of GET /v1/status."""
        ...

    async def explain(self, name: str) -> Explanation | None:
        """Why a backend is sized as it is; None if there is no such backend."""
        ...

    def problems(self) -> dict[str, str]:
        """What the controller cannot do now."""
        ...

    def retry(self, name: str) -> list[str] | None:
        """Start failed replicas afresh; their ids, or None if there is no such backend."""
        ...

    def shutdown(self) -> None:
        """Stop the server, as SIGTERM to the supervisor does."""
        ...


class Ask(msgspec.Struct, frozen=True):
    """One request, checked as far as its form goes.

    Attributes:
        name: in the path: of a backend or endpoint; else empty.
        number: in the path: of a revision; else 0.
        body: of the operation's `body` type.
        who: for the history.
        query: after the question mark; the last of each name counts.
    """

    name: str
    number: int
    body: Any
    who: str
    query: dict[str, str]

    def flag(self, name: str) -> bool:
        """Whether `?name=1` (or true, or nothing after the name) was given."""
        value = self.query.get(name, "0").lower()
        if value not in ("", "1", "true", "0", "false"):
            raise BadRequestError(f"{name}={value}: write 1 or 0")
        return value in ("", "1", "true")

    def integer(self, name: str, default: int, low: int, high: int) -> int:
        """The whole number `?name=…`."""
        text = self.query.get(name, str(default))
        if not (text.isascii() and text.isdigit() and len(text) < 12 and low <= int(text) <= high):
            raise BadRequestError(f"{name}={text}: a whole number from {low} to {high}")
        return int(text)


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """One method of one path.

    Attributes:
        path: with `{name}` or `{revision}` where it varies.
        call: does it; what it returns is sent as JSON.
        summary: one sentence for the OpenAPI document.
        body: type of the request's JSON; None: there is none.
        answer: type of the answer's JSON.
        query: name → sentence.
    """

    method: Method
    path: str
    call: Callable[[Control, Ask], Any | Awaitable[Any]]
    summary: str
    body: Any = None
    answer: Any = dict[str, Any]
    query: dict[str, str] = {}

"""The Python client: declares, changes and calls what a server serves. Must not know how a server is started.

Each method is one request to the admin API. A change returns once what runs is what was declared (`wait=False`: once it
is declared) and raises AdminRefused, AdminUnreachable and StartFailed as `client.errors` has them.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from muleteer.client.admin import Admin, path_of
from muleteer.client.errors import AdminRefused, AdminUnreachable, CannotShip
from muleteer.client.handle import Handle
from muleteer.client.settle import wait_until_settled

STOP_S_MAX = 120.0
"""Longer than any `grace` that a person waits for."""
_POLL_S = 0.02
_ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}


class Client:
    """One server.

    Args:
        admin: its admin API.
        owned: whether leaving a `with` block stops the server.

    Attributes:
        address: where requests go, e.g. `http://127.0.0.1:8000`.
    """

    def __init__(self, admin: Admin, *, owned: bool = False) -> None:
        self._admin = admin
        self._owned = owned

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        if self._owned:
            self.shutdown()

    def __repr__(self) -> str:
        return f"<muleteer client of {self._admin.place}>"

    @property
    def address(self) -> str:
        """See the class. Raises AdminUnreachable."""
        url = urlsplit(str(self.status()["address"]))
        host = url.hostname or ""
        if isinstance(self._admin.place, str):  # the server is elsewhere: its host is the one we know it by
            host = urlsplit(self._admin.place).hostname or host
        host = _ANYWHERE.get(host, host)
        return f"http://[{host}]:{url.port}" if ":" in host else f"http://{host}:{url.port}"

    def status(self) -> dict[str, Any]:
        """What runs, as `muleteer status --json` shows it."""
        found: dict[str, Any] = self._admin.get_patiently("/v1/status")
        return found

    # backends

    def create_backend(
        self, name: str, model: type | Callable[..., Any] | str, *, wait: bool = True, **settings: Any
    ) -> None:
        """Declare a new backend.

        Args:
            name: e.g. `lr:v1`.
            model: a class, a function, or a TARGET (`file.py:Name`, `package.module:Name`). A class of a module is
                imported by each replica; one of a script or notebook is sent as source (docs/client.md).
            wait: until its replicas are ready.
            settings: as in muleteer.yaml: `replicas=2, timeout="10s"`. Also `replicas=(0, 8)` for a range, and
                `slo="p99=100ms"`.

        Raises:
            CannotShip: no replica could import the class.
        """
        body = {**self._model(model), **_as_in_yaml(settings)}
        self._change("PUT", f"{path_of('backends', name)}?create=1", body, wait=wait)

    def update_backend_config(
        self, name: str, config: Mapping[str, Any] | None = None, *, wait: bool = True, **settings: Any
    ) -> None:
        """Change some settings, and `model`, given as to `create_backend`; None stands for the default."""
        given = _as_in_yaml({**(config or {}), **settings})
        if "model" in given:
            given |= self._model(given["model"])
        self._change("PATCH", path_of("backends", name), given, wait=wait)

    def get_backend_config(self, name: str) -> dict[str, Any]:
        """What is declared of a backend: `model`, `base_dir` and each setting that is not at its default."""
        found: dict[str, Any] = self._admin.get_patiently(path_of("backends", name))["declared"]
        return found

    def list_backends(self) -> dict[str, dict[str, Any]]:
        """Name → what is declared of it."""
        rows = self._admin.get_patiently(path_of("backends"))["backends"]
        return {row["name"]: row["declared"] for row in rows}

    def delete_backend(self, name: str, *, wait: bool = True) -> None:
        """Remove a backend that no endpoint uses; its replicas finish what they have."""
        self._change("DELETE", path_of("backends", name), None, wait=wait)

    # endpoints

    def create_endpoint(
        self,
        name: str,
        *,
        backend: str,
        route: str,
        methods: Sequence[str] = ("POST",),
        wait: bool = True,
        **policy: Any,
    ) -> None:
        """Declare a new endpoint, all of whose traffic goes to one backend.

        `policy`: `affinity`, `shadow`, `override`, `timeout`, as in muleteer.yaml.
        """
        body = {"route": route, "methods": list(methods), "backend": backend, **policy}
        self._change("PUT", f"{path_of('endpoints', name)}?create=1", body, wait=wait)

    def set_traffic(self, endpoint: str, traffic: Mapping[str, float], *, wait: bool = True) -> None:
        """Split an endpoint's requests by weight; a backend that is not named gets none any more."""
        self._change("PUT", path_of("endpoints", endpoint, "traffic"), dict(traffic), wait=wait)

    def list_endpoints(self) -> dict[str, dict[str, Any]]:
        """Name → what is declared of it."""
        rows = self._admin.get_patiently(path_of("endpoints"))["endpoints"]
        return {row["name"]: row["declared"] for row in rows}

    def delete_endpoint(self, name: str, *, wait: bool = True) -> None:
        """Remove an endpoint: its route answers 404."""
        self._change("DELETE", path_of("endpoints", name), None, wait=wait)

    def get_handle(self, endpoint: str) -> Handle:
        """To call the endpoint from here: `client.get_handle("e").remote(text="…").result()`."""
        declared = self._admin.get_patiently(path_of("endpoints", endpoint))["declared"]
        return Handle(f"{self.address}{declared['route']}", declared.get("methods", ["POST"])[0])

    def explain(self, name: str) -> dict[str, Any]:
        """Why an endpoint, else a backend, of this name has as many replicas, as long a queue and as large batches as
        it has: `sentences` with the `numbers` they rest on, of an endpoint for each of its `backends`. Raises
        AdminRefused if there is neither.
        """
        try:
            found: dict[str, Any] = self._admin.get_patiently(path_of("endpoints", name, "explain"))
        except AdminRefused as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise
            found = self._admin.get_patiently(path_of("backends", name, "explain"))
        return found

    # the server

    def shutdown(self) -> None:
        """Stop the server; returns when it is gone. Requests in flight are finished. Raises AdminUnreachable."""
        self._admin.send("POST", "/v1/shutdown")
        self._owned = False
        give_up = time.monotonic() + STOP_S_MAX
        while self._admin.is_there():
            if time.monotonic() > give_up:
                raise AdminUnreachable(f"{self._admin.place} still stops after {STOP_S_MAX:g} s")
            time.sleep(_POLL_S)

    def _change(self, method: str, path: str, body: Any, *, wait: bool) -> None:
        answer = self._admin.send(method, path, body)
        if wait and answer["changes"]:
            for name, why in wait_until_settled(self._admin, answer["changes"]).short.items():
                warnings.warn(f"{name}: {why}", RuntimeWarning, stacklevel=3)

    def _model(self, model: object) -> dict[str, str]:
        from muleteer.client.ship import Shipped, locate  # reads source: only where a model is declared

        found = locate(model)
        if not isinstance(model, str) and isinstance(self._admin.place, str):
            raise CannotShip(
                "the server is reached over the network and imports from its own disk: name a TARGET there, as text"
            )
        if isinstance(found, Shipped):
            folder = Path(self._state_dir(), "shipped")
            try:
                found = found.write(folder)
            except OSError as error:
                raise CannotShip(f"cannot write the source to {folder}: {error.strerror}") from None
        return {"model": found.target, "base_dir": found.base_dir}

    def _state_dir(self) -> str:
        server = self._admin.get_patiently("/v1/declared")["declared"].get("server", {})
        return str(server.get("state_dir") or Path(self._admin.place).parent)


def _as_in_yaml(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings in the form of muleteer.yaml; what is wrong with a value, the server says."""
    given = dict(settings)
    match given.get("replicas"):
        case (low, high):
            given["replicas"] = {"min": low, "max": high}
    match given.get("slo"):
        case str(text) if "=" in text:
            quantile, _, seconds = text.partition("=")
            given["slo"] = {quantile.strip(): seconds.strip()}
    return given

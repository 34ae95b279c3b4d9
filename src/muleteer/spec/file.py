"""`muleteer.yaml` → what is declared, with every mistake named at once by file, line and key. Must not know processes.

backends:
  "lr:v1": {model: "fancy_model.py:FancyModel", timeout: 10s}
endpoints:
  fancy: {route: /predict, traffic: {"lr:v1": 90, "lr:v2": 10}, affinity: {header: x-session-id}}
server: {port: 8000}

The settings and their bounds come from `spec.settings`; `spec.schema` describes the same shape to editors.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from muleteer.base.errors import SpecError, TargetError
from muleteer.base.limits import YAML_PROBLEMS_MAX
from muleteer.spec.checks import join
from muleteer.spec.document import Mapping, Node, Problem, Scalar, Sequence, Unreadable, read_document
from muleteer.spec.fit import misfits_between, misfits_of_backend, misfits_of_server
from muleteer.spec.names import check_name
from muleteer.spec.nearest import did_you_mean
from muleteer.spec.routes import check_route
from muleteer.spec.settings import (
    SETTINGS,
    BackendSettings,
    BackendSpec,
    Declared,
    EndpointSpec,
    ServerSettings,
)
from muleteer.spec.targets import check_target, parse_target
from muleteer.spec.traffic import WEIGHT_MAX, Affinity, Override, Shadow
from muleteer.spec.units import parse_seconds
from muleteer.spec.values import Values

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
AFFINITY_SOURCES = ("header", "cookie", "json")
FIELD_NAME_PATTERN = (
    r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}"  # RFC 9110 §5.6.2: names of headers, and of cookies (RFC 6265)
)
_FIELD_NAME = re.compile(FIELD_NAME_PATTERN)
_BACKEND = {name: setting for name, setting in SETTINGS.items() if setting.scope == "backend"}
_SERVER = {name: setting for name, setting in SETTINGS.items() if setting.scope == "server" and not setting.secret}
_SECRETS = {
    name: f"a secret does not belong into a file: set {setting.env} in the environment"
    for name, setting in SETTINGS.items()
    if setting.secret
}


def load_file(path: Path) -> Declared:
    """What the file declares; relative paths in it start from its folder. Raises SpecError with all its mistakes.

    A file without content is refused: more likely it was torn than meant to remove everything.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise SpecError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise SpecError(f"{path}: not UTF-8 at byte {error.start}") from None
    if all(not line or line.startswith("#") for line in map(str.strip, text.splitlines())):
        raise SpecError(f"{path}: declares nothing; to remove everything that is declared, write backends: {{}}")
    return parse_text(text, source=str(path), base_dir=path.resolve().parent)


def parse_text(text: str, *, source: str, base_dir: Path, check_files: bool = True) -> Declared:
    """What `text` declares.

    Args:
        text: YAML 1.2 (JSON is YAML too).
        source: what to call the text in messages.
        base_dir: absolute; where relative files in it start.
        check_files: whether each model's file must exist and hold the name.

    Raises:
        SpecError: one line for each mistake, `source:line: key: what is wrong`, in the order of the text.
    """
    try:
        root, problems = read_document(text)
    except Unreadable as error:
        raise SpecError(f"{source}:{error.line}: {error}") from None
    reader = Reader(problems, base_dir, check_files=check_files)
    declared = reader.read(root)
    if problems:
        raise SpecError(_listed(problems, source))
    return declared


def _listed(problems: list[Problem], source: str) -> str:
    lines = []
    for problem in sorted(problems)[:YAML_PROBLEMS_MAX]:
        where = f"{problem.path}: " if problem.path else ""
        lines.append(f"{source}:{problem.line}: {where}{problem.message}")
    if len(problems) > YAML_PROBLEMS_MAX:
        lines.append(f"{source}: and {len(problems) - YAML_PROBLEMS_MAX} more")
    return "\n".join(lines)


class Reader(Values):
    """One pass over the tree. A part that is wrong is noted and left out, and the reading goes on."""

    def __init__(
        self, problems: list[Problem], base_dir: Path, *, check_files: bool, backends: Iterable[str] = ()
    ) -> None:
        super().__init__(problems)
        self._base_dir = base_dir
        self._check_target: Callable[[str, Path], object] = (
            check_target if check_files else lambda text, _: parse_target(text)
        )
        self._targets: dict[tuple[str, Path], str] = {}  # checked already → what is wrong, or nothing
        self._backends = set(backends)

    def read(self, root: Node) -> Declared:
        """What the whole tree declares; only of use if no problem was noted."""
        top = self.mapping(root, "", ("backends", "endpoints", "server"))
        backends, endpoints = [], []
        for name, line, node in self._named(top, "backends"):
            self._backends.add(name)
            backends.append(self.backend(name, line, node))
        routes: dict[str, str] = {}
        for name, line, node in self._named(top, "endpoints"):
            endpoint = self.endpoint(name, line, node)
            if endpoint.route and routes.setdefault(endpoint.route, name) != name:
                self.note(
                    line, join("endpoints", name), f"its route {endpoint.route} is that of {routes[endpoint.route]}"
                )
            endpoints.append(endpoint)
        server = ServerSettings()
        if "server" in top:
            server = ServerSettings(**self.server(top["server"][1]))
        if not self.problems:
            for backend in backends:
                self.note_misfits(misfits_between(backend, server), root.line)
            self.note_misfits(misfits_of_server(server), root.line)
        return Declared(server=server, backends=tuple(backends), endpoints=tuple(endpoints))

    def server(self, node: Node) -> dict[str, Any]:
        """The settings of the server that `node` gives."""
        values = self.settings(self.mapping(node, "server", _SERVER, _SECRETS), _SERVER, "server")
        for name in ("run_dir", "state_dir"):
            if name in values:
                values[name] = str(self._base_dir / Path(values[name]).expanduser())
        return values

    # parts

    def backend(self, name: str, line: int, node: Node) -> BackendSpec:
        """One backend."""
        path = join("backends", name)
        given = self.mapping(node, path, ("model", "base_dir", *_BACKEND))
        base_dir = self._base_dir
        if "base_dir" in given:
            base_dir /= self.text(given["base_dir"][1], f"{path}.base_dir") or "."
        target = ""
        if "model" in given:
            target = self.text(given["model"][1], f"{path}.model") or ""
            if target:
                self.attempt(given["model"][1].line, f"{path}.model", lambda: self._check(target, base_dir))
        elif isinstance(node, Mapping):
            self.note(line, path, "needs a `model`: file.py:Name or package.module:Name")
        before = len(self.problems)
        settings = BackendSettings(**self.settings(given, _BACKEND, path))
        if len(self.problems) == before:  # else what is missing here was only mistyped
            self.note_misfits(misfits_of_backend(name, settings), line)
        return BackendSpec(name=name, target=target, base_dir=str(base_dir), settings=settings)

    def endpoint(self, name: str, line: int, node: Node) -> EndpointSpec:
        """One endpoint; the backends it names must be known."""
        path = join("endpoints", name)
        known = ("route", "methods", "backend", "traffic", "timeout", "affinity", "shadow", "override")
        given = self.mapping(node, path, known)
        if isinstance(node, Mapping):
            if "route" not in given:
                self.note(line, path, "needs a `route`")
            if ("backend" in given) == ("traffic" in given):
                self.note(line, path, "needs either `backend: NAME` or `traffic: {NAME: weight, …}`")
        parts: dict[str, Callable[[Node, str], Any]] = {
            "methods": self._methods,
            "timeout": self._timeout,
            "affinity": self._affinity,
            "shadow": self._shadow,
            "override": self._override,
        }
        read = {key: part(given[key][1], f"{path}.{key}") for key, part in parts.items() if key in given}
        route = self.checked(given, "route", path, check_route)
        traffic = {}
        if "backend" in given:
            traffic = {self._reference(given["backend"][1], f"{path}.backend"): 1.0}
        elif "traffic" in given:
            traffic = self._traffic(given["traffic"][1], f"{path}.traffic")
        return EndpointSpec(
            name=name, route=route, traffic=traffic, **{key: value for key, value in read.items() if value is not None}
        )

    def _traffic(self, node: Node, path: str) -> dict[str, float]:
        weights: dict[str, float] = {}
        if not isinstance(node, Mapping):
            self.note(node.line, path, "expected weights by backend: {NAME: 90, OTHER: 10}")
            return weights
        for name, (line, weight) in node.entries.items():
            if name not in self._backends:
                self.note(line, path, f"there is no backend {name!r}{did_you_mean(name, self._backends)}")
            weights[name] = self.number(weight, join(path, name), 0.0, WEIGHT_MAX) or 0.0
        if not sum(weights.values()) > 0:
            self.note(node.line, path, "the weights must have a sum above 0")
        return weights

    def _methods(self, node: Node, path: str) -> tuple[str, ...] | None:
        items = node.items if isinstance(node, Sequence) else [node]
        methods = []
        for item in items:
            method = self.text(item, path) or "POST"
            if method not in METHODS:
                self.note(
                    item.line, path, f"{method!r} is not one of {', '.join(METHODS)}{did_you_mean(method, METHODS)}"
                )
            methods.append(method)
        if not methods or len(set(methods)) < len(methods):
            self.note(node.line, path, "expected at least one method, each once")
        return tuple(methods)

    def _timeout(self, node: Node, path: str) -> float | None:
        if isinstance(node, Scalar) and isinstance(node.value, str | int | float) and not isinstance(node.value, bool):
            seconds = self.attempt(node.line, path, lambda: parse_seconds(node.text))
            if seconds is not None and not 0 < seconds <= 3600:
                self.note(node.line, path, f"{node.text} is not allowed: more than 0 and at most 3600 s")
            return seconds
        self.expected(node, path, "a time such as 500ms or 10s")
        return None

    def _affinity(self, node: Node, path: str) -> Affinity | None:
        given = self.mapping(node, path, (*AFFINITY_SOURCES, "replica"))
        sources = [key for key in AFFINITY_SOURCES if key in given]
        if len(sources) != 1:
            if isinstance(node, Mapping):
                self.note(node.line, path, "needs exactly one of `header`, `cookie` and `json`, the name of the key")
            return None
        source = sources[0]
        check = _check_field_name if source != "json" else _check_json_field
        name = self.checked(given, source, path, check)
        replica = self.flag(given["replica"][1], f"{path}.replica") if "replica" in given else False
        if not name:
            return None
        name = name.lower() if source == "header" else name
        return Affinity(source=source, name=name, replica=replica)  # type: ignore[arg-type]  # one of the three

    def _shadow(self, node: Node, path: str) -> Shadow | None:
        given = self.mapping(node, path, ("backend", "percent", "tolerance"))
        missing = [key for key in ("backend", "percent") if key not in given]
        if missing and isinstance(node, Mapping):
            self.note(node.line, path, f"needs `{'` and `'.join(missing)}`")
        if missing:
            return None
        backend = self._reference(given["backend"][1], f"{path}.backend")
        percent = self.number(given["percent"][1], f"{path}.percent", 0.0, 100.0)
        if percent == 0:
            self.note(given["percent"][1].line, f"{path}.percent", "0 is not allowed: leave `shadow` out")
        tolerance: float | None = 1e-6
        if "tolerance" in given:
            tolerance = self.number(given["tolerance"][1], f"{path}.tolerance", 0.0, 1.0)
        if not percent or tolerance is None:
            return None
        return Shadow(backend=backend, percent=percent, tolerance=tolerance)

    def _override(self, node: Node, path: str) -> Override | None:
        given = self.mapping(node, path, ("header", "cookie"))
        if not given and isinstance(node, Mapping):
            self.note(node.line, path, "needs a `header`, a `cookie`, or both: the name that may choose a backend")
        header = self.checked(given, "header", path, _check_field_name).lower()
        cookie = self.checked(given, "cookie", path, _check_field_name)
        return Override(header=header or None, cookie=cookie or None)

    def _named(self, top: dict[str, tuple[int, Node]], key: str) -> Iterable[tuple[str, int, Node]]:
        """Name, line and node of each entry of `backends` or `endpoints` whose name may be one."""
        node = top[key][1] if key in top else Mapping(1, {})
        if not isinstance(node, Mapping):
            self.expected(node, key, "a mapping from names")
            return
        for name, (line, entry) in node.entries.items():
            self.attempt(line, join(key, name), lambda: check_name(name, f"{key[:-1]} name"))  # noqa: B023
            yield name, line, entry

    def _reference(self, node: Node, path: str) -> str:
        name = self.text(node, path) or ""
        if name and name not in self._backends:
            self.note(node.line, path, f"there is no backend {name!r}{did_you_mean(name, self._backends)}")
        return name

    def _check(self, target: str, base_dir: Path) -> None:
        """Each target once: a thousand backends may name one file."""
        if (target, base_dir) not in self._targets:
            try:
                self._check_target(target, base_dir)
                self._targets[target, base_dir] = ""
            except TargetError as error:
                self._targets[target, base_dir] = str(error)
        if wrong := self._targets[target, base_dir]:
            raise ValueError(wrong)


def _check_field_name(name: str) -> str:
    if not _FIELD_NAME.fullmatch(name):
        raise ValueError(f"{name!r} is not a name: letters, digits and !#$%&'*+-.^_`|~ only, at most 128 characters")
    return name


def _check_json_field(name: str) -> str:
    if len(name) > 128:
        raise ValueError("the name of a field has at most 128 characters")
    return name

"""From a command line to what is declared: pairs targets, routes and names, reads a file or what was declared last, and
checks it all before anything starts. Must not know processes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from muleteer.base.errors import SpecError, TargetError, UsageError, UsageErrors
from muleteer.spec.fit import misfits
from muleteer.spec.names import check_name
from muleteer.spec.routes import check_route
from muleteer.spec.settings import SETTINGS, BackendSettings, BackendSpec, Declared, EndpointSpec, ServerSettings
from muleteer.spec.targets import check_target


def pair(targets: Sequence[str], given: Sequence[str], flag: str) -> list[str] | None:
    """`given`, one for each target, or None if none was given. Raises SpecError when the numbers differ."""
    if not given:
        return None
    if len(given) != len(targets):
        raise SpecError(
            f"{len(given)} {flag} for {len(targets)} targets: give one for each, in the order of the targets, or none"
        )
    return list(given)


def declare(
    targets: Sequence[str],
    routes: Sequence[str],
    names: Sequence[str],
    *,
    base_dir: Path,
    server: ServerSettings,
    backend: BackendSettings,
) -> tuple[Declared, list[UsageError]]:
    """What the k-th target, the k-th route and the k-th name declare, and everything that is wrong with them.

    Without routes a single target gets /predict and several get /NAME in lower case; without names each is called
    like its class or function. The first value is complete only if the second is empty.
    """
    problems: list[UsageError] = []
    called: list[str] = []
    for text in targets:
        try:
            called.append(check_target(text, base_dir).name)
        except TargetError as error:
            problems.append(error)
            called.append(text.rpartition(":")[2])
    checked_names, checked_routes = called, _default_routes(targets, called)
    try:
        checked_names = pair(targets, names, "--name") or called
        checked_routes = pair(targets, routes, "--route") or _default_routes(targets, checked_names)
    except SpecError as error:
        problems.append(error)
    problems += _problems_of(checked_names, checked_routes)
    declared = Declared(
        server=server,
        backends=tuple(
            BackendSpec(name=name, target=text, base_dir=str(base_dir), settings=backend)
            for name, text in zip(checked_names, targets, strict=True)
        ),
        endpoints=tuple(
            EndpointSpec(name=name, route=route, traffic={name: 1.0})
            for name, route in zip(checked_names, checked_routes, strict=True)
        ),
    )
    return declared, problems


def misfits_of_flags(declared: Declared) -> list[SpecError]:
    """What does not go together, by flag: each once, whatever the number of targets."""
    found = {misfit.message: SETTINGS[misfit.path.rpartition(".")[2]].flag for misfit in misfits(declared)}
    return [SpecError(f"{flag}: {message}") for message, flag in found.items()]


def declare_file(path: Path) -> Declared:
    """What a muleteer.yaml declares. Raises UsageErrors, one for each mistake in it."""
    from muleteer.spec.file import load_file

    try:
        return load_file(path)
    except SpecError as error:
        raise UsageErrors([SpecError(line) for line in str(error).split("\n")]) from None


def restore(server: ServerSettings) -> Declared:
    """What was declared last for this server. Raises UsageError if nothing was, StateError."""
    from muleteer.control.declaration import STATE_FILE
    from muleteer.control.store import Store

    path = Path(server.state_dir or server.run_dir, STATE_FILE)
    current = None
    if path.exists():
        store = Store.open(path)
        try:
            current = store.current()
        finally:
            store.close()
    if current is None:
        raise UsageError(
            "nothing to serve, and nothing was declared before: muleteer serve model.py:Model --route /predict"
        )
    return current.declared


def _default_routes(targets: Sequence[str], names: Sequence[str]) -> list[str]:
    return ["/predict"] if len(targets) == 1 else [f"/{name.lower()}" for name in names]


def _problems_of(names: Sequence[str], routes: Sequence[str]) -> list[UsageError]:
    problems: list[UsageError] = []
    for name in names:
        try:
            check_name(name, "--name")
        except SpecError as error:
            problems.append(error)
    for route in routes:
        try:
            check_route(route)
        except SpecError as error:
            problems.append(SpecError(f"--route {error}"))
    problems += [SpecError(f"two targets are called {name}: tell them apart with --name") for name in _twice(names)]
    problems += [SpecError(f"two targets have the route {route}: each needs its own") for route in _twice(routes)]
    return problems


def _twice(values: Sequence[str]) -> list[str]:
    return sorted({value for value in values if values.count(value) > 1})

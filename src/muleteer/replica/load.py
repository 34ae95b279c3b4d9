"""TARGET → the user's model, loaded once; or StartError with their own traceback. Must not know sockets or calls."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from muleteer.base.errors import StartError
from muleteer.replica.config import Batch
from muleteer.replica.hints import show
from muleteer.replica.inputs import Inputs
from muleteer.replica.signature import Signature
from muleteer.replica.source import SourceLoader, read_afresh
from muleteer.replica.traces import own_traceback, say

Stage = Callable[[str, float], None]
"""Called with the name of a finished stage of the start and the seconds it took."""


class Model:
    """The user's model, ready to be called.

    Attributes:
        method: what runs for each call: `predict`, else `__call__`, or the function itself; or `predict_batch`.
        inputs: how a batch of calls becomes the method's argument; None if it takes one call.
        signature: what one call takes.
        returns: what it returns, for a person; empty where no hint says it.
        is_async: it is a coroutine function.
        example: one input to warm up with, or None.
        close: the user's `close`, or None.
        root: the folder whose modules count as the model's own.
    """

    def __init__(
        self, subject: Any, name: str, *, batch: Batch = "auto", root: Path, notice: Callable[[str], None]
    ) -> None:
        method, single = _methods(subject, name, batch)
        self.method = method
        self.inputs: Inputs | None = None
        if single is not method or batch in ("list", "stack"):
            beside = single if batch == "auto" else None
            self.inputs = Inputs.of(method, beside, batch=batch, notice=notice)
            self.signature = self.inputs.signature
            self.returns = returns(method if beside is None else beside)
        else:
            self.signature = Signature.of(method, notice)
            self.returns = returns(method)
        self.is_async = _is_async(method)
        example = getattr(subject, "example", None)
        self.example = None if callable(example) else example  # a method of that name is the user's own affair
        self.close: Callable[[], Any] | None = None if inspect.isfunction(subject) else getattr(subject, "close", None)
        self.root = root


def load(
    target: str,
    base_dir: str,
    *,
    batch: Batch = "auto",
    stage: Stage,
    notice: Callable[[str], None] = lambda _: None,
) -> Model:
    """Import TARGET and construct it.

    Raises StartError: `target_missing`, `import_error`, `constructor_raised`, `no_predict` or `bad_batch`.
    """
    place, colon, name = target.rpartition(":")
    if not colon or not place or not name.isidentifier():
        raise StartError(
            "target_missing", f"target {target!r} does not have the form file.py:Name or package.module:Name"
        )
    began = time.monotonic()
    if place.endswith(".py"):
        path = Path(base_dir, place).resolve()
        root = path.parent
        module = _import_file(path)
    else:
        root = Path(base_dir).resolve()
        module = _import_package(place, root)
    subject = _find(module, name, place)
    stage("import", time.monotonic() - began)
    if inspect.isclass(subject):
        began = time.monotonic()
        subject = _construct(subject)
        stage("load", time.monotonic() - began)
    try:
        return Model(subject, name, batch=batch, root=root, notice=notice)
    except StartError:
        raise
    except BaseException as error:  # the boundary to the user's properties and __getattr__
        message = f"looking for predict, example and close of {name} raised {say(error)}\n{own_traceback(error)}"
        raise StartError("constructor_raised", message) from error


def _import_file(path: Path) -> ModuleType:
    if not _is_file(path):
        raise StartError("target_missing", f"there is no file {path}" + _near(path.name, _python_files(path.parent)))
    sys.path.insert(0, str(path.parent))
    read_afresh(path.parent)
    name = path.stem
    if name in sys.modules:  # a file called queue.py must not take the place of the library's module
        name = f"_model_{name}"
    spec = importlib.util.spec_from_file_location(name, path, loader=SourceLoader(name, str(path)))
    if spec is None or spec.loader is None:
        raise StartError("target_missing", f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException as error:  # the boundary to the user's module: also SystemExit of a script
        raise StartError("import_error", _import_message(path.name, error)) from error
    return module


def _import_package(name: str, base_dir: Path) -> ModuleType:
    sys.path.insert(0, str(base_dir))
    read_afresh(base_dir)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(error.name + ".")):
            hint = _near(name, [file.removesuffix(".py") for file in _python_files(base_dir)])
            raise StartError(
                "target_missing", f"there is no module {error.name!r} (looked in {base_dir})" + hint
            ) from error
        raise StartError("import_error", _import_message(name, error)) from error
    except BaseException as error:  # the boundary to the user's module: also SystemExit of a script
        raise StartError("import_error", _import_message(name, error)) from error


def _import_message(what: str, error: BaseException) -> str:
    if isinstance(error, ImportError) and "no known parent package" in str(error):
        hint = "; a file that imports its neighbours with a dot is served as package.module:Name"
        return f"cannot import {what}: {say(error)}{hint}\n{own_traceback(error)}"
    if isinstance(error, SyntaxError):
        where = f"{error.filename}, line {error.lineno}"
        return f"cannot import {what}: {type(error).__name__} in {where}: {error.msg}\n{own_traceback(error)}"
    return f"cannot import {what}: {say(error)}\n{own_traceback(error)}"


def _find(module: ModuleType, name: str, place: str) -> Any:
    if hasattr(module, name):
        return getattr(module, name)
    own = [key for key, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__]
    near = _near(name, own)
    if not near and own:
        near = f"; it defines {', '.join(own[:10])}"
    raise StartError("target_missing", f"{place} does not define {name!r}{near}")


def _construct(kind: type) -> Any:
    try:
        return kind()
    except BaseException as error:  # the boundary to the user's constructor
        message = f"{kind.__name__}() raised {say(error)}\n{own_traceback(error)}"
        raise StartError("constructor_raised", message) from error


def _methods(subject: Any, name: str, batch: Batch) -> tuple[Callable[..., Any], Callable[..., Any] | None]:
    """What is run, and what would run single calls, if there is something."""
    routine = inspect.isroutine(subject)
    single = subject if routine else getattr(subject, "predict", subject)
    together = None if routine else getattr(subject, "predict_batch", None)
    if batch == "auto" and callable(together):
        return together, single if callable(single) else None
    if callable(single):
        return single, single
    if callable(together):
        raise StartError("no_predict", f"{name} has predict_batch only, which `batch: {batch}` does not call")
    own = [key for key in dir(subject) if not key.startswith("_") and callable(getattr(subject, key, None))]
    raise StartError("no_predict", f"{name} has neither predict nor __call__" + _near("predict", own))


def returns(method: Callable[..., Any]) -> str:
    """The hint of what the method returns, for a person; empty where there is none."""
    try:
        hint = inspect.signature(method).return_annotation
    except (TypeError, ValueError):  # C code
        return ""
    return show(hint)


def _is_async(method: Callable[..., Any]) -> bool:
    while isinstance(method, functools.partial):
        method = method.func
    return inspect.iscoroutinefunction(method) or inspect.iscoroutinefunction(getattr(method, "__call__", None))  # noqa: B004


def _python_files(folder: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in folder.iterdir() if entry.suffix == ".py")
    except OSError:
        return []


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # e.g. a name too long, a folder that we may not enter
        return False


def _near(name: str, known: list[str]) -> str:
    from difflib import get_close_matches

    near = get_close_matches(name, known, n=3)
    return f"; did you mean {' or '.join(near)}?" if near else ""

"""`python -m muleteer.replica CONFIG`: load the model, warm it up, say ready, serve, leave. See docs/processes.md."""

from __future__ import annotations

import faulthandler
import gc
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn

import msgspec

from muleteer.base.errors import StartError, UsageError
from muleteer.base.limits import FRAME_OVERHEAD_BYTES, REPLICA_EXIT_S
from muleteer.replica.about import info
from muleteer.replica.answer import Answer, Call, answer, answer_async, check_warm_up, example_body
from muleteer.replica.batch import answer_batch, answer_batch_async
from muleteer.replica.config import ReplicaConfig
from muleteer.replica.control import Control
from muleteer.replica.load import Model, load
from muleteer.replica.session import Ready, Session
from muleteer.replica.sharing import Sharing
from muleteer.replica.traces import own_traceback, say, write
from muleteer.spec.secret import SECRET_VARIABLE
from muleteer.telemetry.log import log
from muleteer.wire.tls import server_context, tls_wanted

if TYPE_CHECKING:
    from muleteer.replica.sealed import Sealed


def main() -> None:
    """The whole life of a replica."""
    config, sockets = _read_arguments()
    _prepare_process()
    control = Control(sockets["control"])
    if "fork" not in sockets:
        control.watch()
    began = time.monotonic()
    try:
        _entitle(config, "template" if "fork" in sockets else "replica")
        model = load(
            config.target,
            config.base_dir,
            batch=config.batch,
            stage=control.stage,
            notice=lambda text: log("notice", text=text),
        )
        if "fork" in sockets:
            from muleteer.replica.template import Template

            forked = Template(sockets["fork"], control).serve(info(model, config.base_dir, time.monotonic() - began))
            config, sockets, began = forked.config, forked.sockets, time.monotonic()
            _entitle(config, "replica")
            control = Control(sockets["control"])
            control.watch()
        announce = _announcement(model, config, control, began)
        if model.is_async or config.concurrency > 1:
            _serve_async(model, config, sockets["link"], control, announce)
        else:
            _serve_sync(model, config, sockets["link"], control, announce)
    except StartError as error:
        log("cannot start", reason=error.reason, error=str(error).partition("\n")[0])
        control.failed(error.reason, str(error))
        _leave(1)
    _leave(0)


def _read_arguments() -> tuple[ReplicaConfig, dict[str, socket.socket]]:
    inherited = os.environ.pop("MULETEER_FDS", "")
    if not inherited or len(sys.argv) != 2:
        sys.exit("muleteer.replica is started by `muleteer serve`, not by hand: MULETEER_FDS or CONFIG is missing")
    try:
        numbers = msgspec.json.decode(inherited, type=dict[str, int])
        config = msgspec.json.decode(sys.argv[1].encode(), type=ReplicaConfig)
    except msgspec.DecodeError as error:
        sys.exit(f"MULETEER_FDS or CONFIG of muleteer.replica is wrong: {error}")
    config = msgspec.structs.replace(config, secret=os.environ.pop(SECRET_VARIABLE, ""))
    sockets = {name: socket.socket(fileno=number) for name, number in numbers.items()}
    for inherited_socket in sockets.values():
        inherited_socket.set_inheritable(False)  # a process that the model starts must not keep them open
    return config, sockets


def _prepare_process() -> None:
    faulthandler.enable()  # SIGABRT dumps every stack to stderr, also while C code holds the GIL
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))  # while it loads there is nothing to finish
    if not sys.flags.safe_path:
        del sys.path[0]  # the folder we happened to be started in; the model's own takes its place
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(line_buffering=True)


def _entitle(config: ReplicaConfig, kind: str) -> None:
    from setproctitle import setproctitle

    setproctitle(f"muleteer: {kind} {config.replica}")


def _announcement(model: Model, config: ReplicaConfig, control: Control, began: float) -> Callable[[], None]:
    def announce() -> None:
        gc.collect()
        gc.freeze()  # a loaded model is millions of objects that no collection needs to look at again
        control.ready(info(model, config.base_dir, time.monotonic() - began))

    return announce


def _sessions(model: Model, config: ReplicaConfig, listener: socket.socket, warm_up_us: int) -> Callable[[], Session]:
    """Makes the session of each new link. Raises StartError: links are to be sealed, and the means are missing."""
    seal = _seals(listener)
    batch = model.inputs is not None
    ready = Ready(config.backend, config.replica, os.getpid(), config.concurrency, warm_up_us, batch)
    payload_max = config.max_body + FRAME_OVERHEAD_BYTES
    return lambda: Session(ready, payload_max=payload_max, secret=config.secret, sealed=seal())


def _seals(listener: socket.socket) -> Callable[[], Sealed | None]:
    if listener.family == socket.AF_UNIX or not tls_wanted():
        return lambda: None
    from muleteer.replica.sealed import Sealed

    try:
        context = server_context()
    except UsageError as error:
        raise StartError("tls", str(error)) from None
    return lambda: Sealed(context)


def _example_call(model: Model) -> Call | None:
    return None if model.example is None else Call(0, None, example_body(model), 0)


def _warmed(answer: Answer, began: float, control: Control) -> int:
    """What it took in the user's method, in µs. Raises StartError if it failed."""
    check_warm_up(answer)
    control.stage("warm_up", time.monotonic() - began)
    return answer.service_us


def _serve_sync(
    model: Model, config: ReplicaConfig, listener: socket.socket, control: Control, announce: Callable[[], None]
) -> None:
    from muleteer.replica.serve_sync import SyncServer

    def run(calls: list[Call]) -> list[Answer]:
        return _answers(model, calls, debug=config.debug)

    example, warm_up_us = _example_call(model), 0
    if example is not None:
        began = time.monotonic()
        warm_up_us = _warmed(_answers(model, [example], debug=True)[0], began, control)
    server = SyncServer(
        listener,
        new_session=_sessions(model, config, listener, warm_up_us),
        run=run,
        sharing=Sharing(warm_up_us / 1e6),
    )
    server.serve(announce)
    if model.close is not None:
        try:
            model.close()
        except BaseException as error:  # noqa: BLE001 - the user's close must not turn a clean stop into a crash
            _log_close(error)


def _serve_async(
    model: Model, config: ReplicaConfig, listener: socket.socket, control: Control, announce: Callable[[], None]
) -> None:
    import asyncio
    import inspect
    from concurrent.futures import ThreadPoolExecutor

    import uvloop

    from muleteer.replica.serve_async import AsyncServer

    pool = None if model.is_async else ThreadPoolExecutor(config.concurrency, "muleteer-call")

    async def run(calls: list[Call], *, debug: bool = config.debug) -> list[Answer]:
        if model.is_async:
            return await _answers_async(model, calls, debug=debug)
        in_thread = asyncio.get_running_loop().run_in_executor(pool, lambda: _answers(model, calls, debug=debug))
        return await in_thread

    async def live() -> None:
        example, warm_up_us = _example_call(model), 0
        if example is not None:
            began = time.monotonic()
            warm_up_us = _warmed((await run([example], debug=True))[0], began, control)
        server = AsyncServer(
            listener,
            new_session=_sessions(model, config, listener, warm_up_us),
            run=run,
            concurrency=config.concurrency,
            cancels=model.is_async,
            sharing=Sharing(warm_up_us / 1e6),
        )
        await server.serve(announce)
        if model.close is not None:
            try:
                closing = model.close()
                if inspect.isawaitable(closing):
                    await closing
            except BaseException as error:  # noqa: BLE001 - as in _serve_sync
                _log_close(error)

    uvloop.run(live())


def _answers(model: Model, calls: list[Call], *, debug: bool) -> list[Answer]:
    if model.inputs is not None:
        return answer_batch(model, calls, debug=debug)
    return [answer(model, call.body, request_id=call.request_id, debug=debug) for call in calls]


async def _answers_async(model: Model, calls: list[Call], *, debug: bool) -> list[Answer]:
    if model.inputs is not None:
        return await answer_batch_async(model, calls, debug=debug)
    return [await answer_async(model, call.body, request_id=call.request_id, debug=debug) for call in calls]


def _log_close(error: BaseException) -> None:
    log("close() raised", error=say(error))
    write(own_traceback(error))


def _leave(status: int) -> NoReturn:
    """Exit; if threads or exit hooks of the model do not let us, leave without them."""
    timer = threading.Timer(REPLICA_EXIT_S, os._exit, (status,))
    timer.daemon = True
    timer.start()
    sys.exit(status)


if __name__ == "__main__":
    main()

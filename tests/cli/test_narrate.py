"""What the foreground shows, as whole outputs; and when a start has failed for good."""

import io

from muleteer.cli.narrate import Narrator
from muleteer.cli.output import Paint
from muleteer.spec.settings import BackendSettings, BackendSpec, Declared, EndpointSpec, Replicas, ServerSettings
from muleteer.supervise.events import (
    Backoff,
    Exited,
    Failed,
    Notice,
    Output,
    Ready,
    ShutDown,
    Stage,
    Started,
    Stopped,
)
from muleteer.supervise.process import LastExit


class Clock:
    def __init__(self):
        self.time = 100.0

    def now(self):
        return self.time


class Told:
    """A narrator, its lines, and what it called."""

    def __init__(self, *names, replicas=1, reload=False):
        declared = Declared(
            server=ServerSettings(reload=reload),
            backends=tuple(
                BackendSpec(
                    name=name, target=f"models.py:{name}", base_dir="/x", settings=BackendSettings(replicas=replicas)
                )
                for name in names
            ),
            endpoints=tuple(EndpointSpec(name=name, route=f"/{name.lower()}", traffic={name: 1.0}) for name in names),
        )
        self.lines = []
        self.calls = []
        self.clock = Clock()
        self.narrator = Narrator(
            declared,
            "http://127.0.0.1:8000",
            clock=self.clock,
            paint=Paint(io.StringIO()),
            say=self.lines.append,
            on_settled=lambda: self.calls.append("settled"),
            on_failure=lambda: self.calls.append("failure"),
        )

    def tell(self, *events, after=0.0):
        self.clock.time += after
        for event in events:
            self.narrator(event)

    def start(self, id, pid=10, restarts=0):
        self.tell(Started(id, pid, restarts, {"backend": id.rpartition("-")[0]} if "gateway" not in id else {}))


def exited(id, reason, *, message="", code=1, was_ready=False, log_tail=""):
    return Exited(id, LastExit(reason=reason, code=code, message=message, was_ready=was_ready, log_tail=log_tail))


def test_a_model_that_sleeps_holds_nothing_up_and_is_said_to():
    told = Told("A", replicas=Replicas(0, 8))
    told.narrator.banner("1", "/run", 1)
    told.narrator.serving("")
    assert "  http://127.0.0.1:8000/a  ←  models.py:A (A, 0 to 8 replicas)" in told.lines
    assert "  # http://127.0.0.1:8000/a sleeps: the first call starts its model" in told.lines
    assert told.narrator.unmanned() == {"A"}


def test_a_good_start_from_banner_to_stop():
    told = Told("FancyModel", "Slow")
    told.narrator.banner("0.1.0", "/tmp/muleteer-0", 4711)
    told.start("gateway-0")
    told.start("FancyModel-1")
    told.start("Slow-1")
    told.tell(Ready("gateway-0", 0.1, {}), after=0.1)
    told.tell(Stage("FancyModel-1", "import", 0.012), Stage("FancyModel-1", "load", 0.05), after=0.1)
    told.tell(Output("Slow-1", "loading \x1b[2Jweights"))
    told.tell(Ready("FancyModel-1", 0.2, {"example": {"text": "tadaaam"}}), after=0.01)
    assert told.calls == []
    told.tell(Stage("Slow-1", "load", 6.4), Ready("Slow-1", 6.5, {"parameters": ["text: str"]}), after=6.2)
    assert told.calls == ["settled"]
    told.clock.time += 0.01
    told.narrator.serving(" --run-dir /tmp/x")
    told.tell(exited("FancyModel-1", "killed", was_ready=True), after=1)
    told.start("FancyModel-1", pid=11, restarts=1)
    told.tell(Ready("FancyModel-1", 0.2, {"example": {"text": "tadaaam"}}), after=0.2)
    told.tell(Notice("controller", "models.py changed: replacing the replicas of FancyModel"))
    told.tell(ShutDown("SIGINT", quick=False), after=10)
    told.tell(exited("FancyModel-1", "stopped", was_ready=True), Stopped("FancyModel-1"))
    told.tell(ShutDown("SIGINT", quick=True))
    assert (
        "\n".join(told.lines)
        == """\
muleteer 0.1.0  pid 4711  run directory /tmp/muleteer-0
  http://127.0.0.1:8000/fancymodel  ←  models.py:FancyModel (FancyModel, 1 replica)
  http://127.0.0.1:8000/slow  ←  models.py:Slow (Slow, 1 replica)

   0.10 s  gateway-0     ready, 100 ms after its start
   0.20 s  FancyModel-1  import took 12 ms
   0.20 s  FancyModel-1  load took 50 ms
Slow-1 | loading \\x1b[2Jweights
   0.21 s  FancyModel-1  ready, 200 ms after its start
   6.41 s  Slow-1        load took 6.40 s
   6.41 s  Slow-1        ready, 6.50 s after its start

ready after 6.42 s, try:

  curl -H 'content-type: application/json' -d '{"text": "tadaaam"}' http://127.0.0.1:8000/fancymodel
  curl -H 'content-type: application/json' -d '{"text": "hello"}' http://127.0.0.1:8000/slow

In another shell: muleteer status --run-dir /tmp/x · muleteer logs -f --run-dir /tmp/x · muleteer stop --run-dir /tmp/x
   7.42 s  FancyModel-1  killed with status 1
   7.42 s  FancyModel-1  started again, pid 11
   7.62 s  FancyModel-1  ready, 200 ms after its start
   7.62 s  controller    models.py changed: replacing the replicas of FancyModel
  17.62 s  muleteer      SIGINT: finishing what is in flight; once more ends it at once
  17.62 s  muleteer      SIGINT: ending everything now"""
    )
    assert told.narrator.failure is None


def test_a_process_of_ours_that_was_never_ready_ends_the_start_after_five_tries():
    told = Told("A")
    told.start("gateway-0")
    end = exited("gateway-0", "exited", code=3, log_tail="Traceback\nImportError: no uvloop\n")
    for tries in range(1, 5):
        told.tell(end, Backoff("gateway-0", 0.5, tries))
    assert told.calls == []
    told.tell(end, Backoff("gateway-0", 5.0, 5), end, Backoff("gateway-0", 5.0, 6))
    assert told.calls == ["failure"]
    assert told.narrator.failure.exit_status == 1
    assert str(told.narrator.failure) == (
        "gateway-0 did not start, 5 times in a row: exited with status 3\n  Traceback\n  ImportError: no uvloop"
    )


def test_a_process_of_ours_that_was_ready_or_fails_later_is_tried_for_ever():
    told = Told("A")
    told.start("gateway-0")
    told.tell(Ready("gateway-0", 0.1, {}), exited("gateway-0", "killed", was_ready=True))
    told.tell(*[each for tries in range(1, 9) for each in (exited("gateway-0", "x"), Backoff("gateway-0", 5.0, tries))])
    assert told.calls == []
    served = Told("A")
    served.narrator.serving("")
    served.tell(
        *[each for tries in range(1, 9) for each in (exited("controller", "x"), Backoff("controller", 5.0, tries))]
    )
    assert served.calls == []


def test_settled_needs_every_replica_and_is_said_once():
    told = Told("A", replicas=2)
    for id in ("A-1", "A-2"):
        told.start(id)
    told.tell(Ready("A-1", 0.1, {}))
    told.tell(Ready("A-1", 0.1, {}))  # it died and came back
    assert told.calls == []
    told.tell(Ready("A-2", 0.1, {}))
    told.tell(Ready("A-2", 0.1, {}))
    assert told.calls == ["settled"]


def test_a_first_start_that_fails_for_the_models_own_reason_fails_at_once():
    told = Told("A", "B")
    told.start("A-1")
    told.start("B-1")
    told.tell(Ready("A-1", 0.1, {}))
    told.tell(exited("B-1", "import_error", message="cannot import models.py: ModuleNotFoundError: x\nTraceback\n  a"))
    told.tell(exited("B-1", "import_error", message="again"))
    assert told.calls == ["failure"]
    assert str(told.narrator.failure) == (
        "cannot serve models.py:B: import_error: cannot import models.py: ModuleNotFoundError: x\n  Traceback\n    a"
    )
    assert told.narrator.failure.exit_status == 6
    told.tell(ShutDown("the start failed", quick=False))
    assert told.lines[-1].endswith("muleteer    the start failed: stopping everything")


def test_a_death_without_a_word_is_not_final():
    told = Told("A")
    told.start("A-1")
    told.tell(exited("A-1", "killed"), Backoff("A-1", 0.7, 1), after=0.1)
    assert told.calls == []
    assert told.lines == [
        "   0.10 s  A-1         killed with status 1",
        "   0.10 s  A-1         starts again in 0.7 s",
    ]


def test_when_all_have_failed_before_any_was_ready_the_start_has_failed():
    told = Told("A", "B")
    for id in ("A-1", "B-1"):
        told.start(id)
    told.tell(exited("A-1", "exited", code=3, log_tail="boom"))
    told.tell(Failed("A-1", 5, LastExit(reason="exited", code=3, log_tail="boom")))
    assert told.calls == []
    told.tell(Failed("B-1", 5, LastExit(reason="exited", code=3, log_tail="bang")))
    assert told.calls == ["failure"]
    assert str(told.narrator.failure) == "cannot serve models.py:B: exited with status 3\n  bang"


def test_when_one_serves_a_failed_one_leaves_the_others_untouched():
    told = Told("A", "B")
    for id in ("A-1", "B-1"):
        told.start(id)
    told.tell(Ready("A-1", 0.1, {}))
    told.tell(Failed("B-1", 5, LastExit(reason="exited", code=3)))
    assert told.calls == ["settled"]
    assert told.narrator.failure is None
    told.narrator.serving("")
    assert "  # http://127.0.0.1:8000/b is not served: its model FAILED" in told.lines


def test_with_reload_a_broken_model_is_no_failure():
    told = Told("A", reload=True)
    told.start("A-1")
    told.tell(exited("A-1", "import_error", message="cannot import\n  frame"))
    assert told.calls == []
    assert [line.split("  ", 2)[-1].strip() for line in told.lines] == [
        "A-1         import_error: cannot import",
        "A-1           frame",
        "A-1         a change of its file is tried at once",
    ]


def test_a_backend_that_cannot_run_here_fails_the_start():
    told = Told("A", "B")
    told.tell(Notice("controller", "a replica takes 2GiB", unservable="B", reason="no_room"))
    assert told.lines == ["   0.00 s  controller  B cannot be served: a replica takes 2GiB"]
    assert told.calls == ["failure"]
    assert str(told.narrator.failure) == "cannot serve models.py:B: no_room: a replica takes 2GiB"


def test_a_backend_elsewhere_whose_starts_all_failed_fails_the_start():
    told = Told("A")
    failed = "No module named 'x' (on node 10.0.0.2)\n  m.py, line 1"
    told.tell(Notice("controller", failed, unservable="A", reason="import_error"))
    assert told.lines == ["   0.00 s  controller  A cannot be served: No module named 'x' (on node 10.0.0.2)"]
    assert told.calls == ["failure"]
    words = "cannot serve models.py:A: import_error: No module named 'x' (on node 10.0.0.2)\n    m.py, line 1"
    assert str(told.narrator.failure) == words


def test_with_reload_a_backend_that_cannot_run_here_holds_nothing_up():
    told = Told("A", "B", reload=True)
    told.start("A-1")
    told.tell(Notice("controller", "a replica takes 2GiB", unservable="B", reason="no_room"))
    assert told.calls == []
    told.tell(Ready("A-1", 0.1, {}))
    told.tell(Notice("controller", "a replica takes 2GiB", unservable="B", reason="no_room"))
    assert told.calls == ["settled"]
    assert told.narrator.failure is None


def test_one_that_the_others_leave_no_room_for_is_left_out_and_they_are_served():
    told = Told("A", "B")
    told.start("A-1")
    told.tell(Notice("controller", "no room: a replica takes 2GiB", unservable="B", crowded=True))
    assert told.lines[-1] == "   0.00 s  controller  B: no room: a replica takes 2GiB"
    assert told.calls == [], "A is waited for"
    told.tell(Ready("A-1", 0.1, {}))
    assert told.calls == ["settled"]
    assert told.narrator.failure is None
    assert told.narrator.left_out == {"B": "no room: a replica takes 2GiB"}
    told.narrator.serving("")
    assert "  # http://127.0.0.1:8000/b is not served: there is no room for its model" in told.lines
    told.start("B-1")
    told.tell(Ready("B-1", 0.1, {}))
    assert told.narrator.left_out == {}


def test_one_of_which_fewer_have_room_is_served_by_those():
    told = Told("A", replicas=3)
    for id in ("A-1", "A-2"):
        told.start(id)
        told.tell(Ready(id, 0.1, {}))
    assert told.calls == []
    crowded = Notice("controller", "room for 2 of 3 replicas: another takes 2GiB", unservable="A", crowded=True)
    told.tell(crowded, crowded)
    assert told.calls == ["settled"], "once"
    assert told.narrator.left_out == {}


def test_after_the_start_nothing_is_final():
    told = Told("A")
    told.start("A-1")
    told.tell(Ready("A-1", 0.1, {}))
    told.narrator.serving("")
    told.start("A-2")
    told.tell(exited("A-2", "import_error", message="a bad reload"), Failed("A-2", 5, LastExit(reason="import_error")))
    told.tell(Notice("controller", "a replica takes 2GiB", unservable="A"))
    assert told.calls == ["settled"]
    assert told.narrator.failure is None

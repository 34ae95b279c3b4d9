"""The verbs that change what is declared, with a real server: whole outputs, exit statuses, and what can be undone."""

import http.client
import json
import re

import pytest

YAML = """\
backends:
  "lr:v1": {model: "fancy_model.py:FancyModel"}
  "lr:v2": {model: "fancy_model.py:shout"}
endpoints:
  fancy: {route: /predict, traffic: {"lr:v1": 90, "lr:v2": 10}}
"""


@pytest.fixture
def server(folder):
    """A detached server with nothing declared; the file is there to be applied."""
    (folder.path / "muleteer.yaml").write_text(YAML)
    done = folder.muleteer("serve", "--empty", "-d", "--port", "0")
    assert done.returncode == 0, done.stderr
    yield folder
    folder.muleteer("stop", "--now")


def shown(folder, *arguments):
    """Exit status and whole output of one command, without what differs from run to run."""
    done = folder.muleteer(*arguments)
    text = re.sub(r"settled after [0-9.]+ s", "settled after T s", done.stdout + done.stderr)
    text = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "YYYY-MM-DD HH:MM:SS", text)
    return done.returncode, text.replace(f" --run-dir {folder.run_dir}", "").replace(str(folder.path), "FOLDER")


def call(folder, text="x"):
    status = json.loads(folder.muleteer("status", "--json").stdout)
    connection = http.client.HTTPConnection(status["address"].removeprefix("http://"), timeout=20)
    try:
        body = json.dumps({"text": text})
        connection.request("POST", "/predict", body, {"content-type": "application/json"})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


APPLIED = """\
+ backend lr:v1: fancy_model.py:FancyModel, starts 1 replica
+ backend lr:v2: fancy_model.py:shout, starts 1 replica
+ endpoint fancy: /predict → lr:v1=90 lr:v2=10
"""


def test_a_day_of_steering(server):
    assert shown(server, "diff", "muleteer.yaml") == (1, APPLIED)
    assert shown(server, "apply", "muleteer.yaml") == (
        0,
        APPLIED + "revision 2; undo: muleteer rollback 1\nsettled after T s\n",
    )
    assert shown(server, "diff", "muleteer.yaml") == (0, "nothing to change\n")
    assert shown(server, "apply", "muleteer.yaml") == (0, "nothing to change\nrevision 2, as before\n")
    assert shown(server, "traffic", "fancy", "lr:v2=100") == (
        0,
        (
            "~ endpoint fancy: at once, no request lost\n"
            "    traffic: lr:v1=90 lr:v2=10 → lr:v2=100\n"
            "revision 3; undo: muleteer traffic fancy lr:v1=90 lr:v2=10\n"
            "settled after T s\n"
        ),
    )
    assert call(server, "loud") == (200, "LOUD")
    assert shown(server, "scale", "lr:v2", "2") == (
        0,
        (
            "~ backend lr:v2: starts 1 more\n"
            "    replicas: 1 → 2\n"
            "revision 4; undo: muleteer rollback 3\n"
            "settled after T s\n"
        ),
    )
    assert shown(server, "delete", "backend", "lr:v2") == (
        2,
        "muleteer: backend 'lr:v2' is in use by endpoint 'fancy'\n",
    )
    assert shown(server, "delete", "backend", "lr:v1") == (
        0,
        (
            "- backend lr:v1: finishes its requests, then stops 1 replica\n"
            "revision 5; undo: muleteer rollback 4\n"
            "settled after T s\n"
        ),
    )
    assert shown(server, "rollback") == (
        0,
        (
            "+ backend lr:v1: fancy_model.py:FancyModel, starts 1 replica\n"
            "revision 6; undo: muleteer rollback 5\n"
            "settled after T s\n"
        ),
    )
    status, history = shown(server, "history", "-n", "4")
    assert status == 0
    assert re.sub(r"cli:.*?  +", "cli:ME  ", history) == (
        "REVISION  WHEN (UTC)           WHO        WHAT\n"
        "6         YYYY-MM-DD HH:MM:SS  cli:ME  rollback to 4\n"
        "5         YYYY-MM-DD HH:MM:SS  cli:ME  delete backend lr:v1\n"
        "4         YYYY-MM-DD HH:MM:SS  cli:ME  set replicas of backend lr:v2\n"
        "3         YYYY-MM-DD HH:MM:SS  cli:ME  set traffic of endpoint fancy\n"
    ).replace("WHO        WHAT", history.split("\n")[0].split("(UTC)           ")[1])
    declared = json.loads(server.muleteer("history", "3").stdout)["declared"]
    assert declared["endpoints"]["fancy"]["traffic"] == {"lr:v2": 100}


def test_how_many_replicas_there_may_be(server):
    assert shown(server, "apply", "muleteer.yaml")[0] == 0
    assert shown(server, "scale", "lr:v2", "1:2") == (
        0,
        (
            "~ backend lr:v2: has 1 to 2 replicas, as many as its load needs\n"
            "    replicas: 1 → 1:2\n"
            "revision 3; undo: muleteer rollback 2\n"
            "settled after T s\n"
        ),
    )
    assert call(server)[0] == 200
    assert shown(server, "scale", "lr:v2", "1:2") == (0, "nothing to change\nrevision 3, as before\n")
    assert shown(server, "scale", "lr:v2", "0:2000") == (
        2,
        "muleteer: backends.\"lr:v2\".replicas.max: expected a whole number from 0 to 1024, not '2000'\n",
    )
    status, text = shown(server, "rollback", "2")
    assert (status, text.splitlines()[:2]) == (
        0,
        ["~ backend lr:v2: has 1 replica, whatever its load", "    replicas: 1:2 → 1"],
    )


def test_what_does_not_fit_is_one_line_each(server):
    assert shown(server, "traffic", "fanzy", "a=1") == (2, "muleteer: there is no endpoint 'fanzy'\n")
    for number in ("nan", "inf", "1e400", "ninety"):
        assert shown(server, "traffic", "fancy", f"a={number}") == (
            2,
            f"muleteer: 'a={number}': '{number}' is not a number\n",
        )
    assert shown(server, "rollback", "9") == (
        2,
        "muleteer: there is no revision 9; the latest 500 are kept\n",
    )
    (server.path / "wrong.yaml").write_text("backends:\n  a: {modle: x}\nendpoints:\n  e: {route: x, backend: b}\n")
    status, text = shown(server, "apply", "wrong.yaml")
    assert status == 2
    assert [line.split(": ")[1] for line in text.splitlines()] == [
        "wrong.yaml:2",
        "wrong.yaml:2",
        "wrong.yaml:4",
        "wrong.yaml:4",
    ]
    assert all(line.startswith("muleteer: ") for line in text.splitlines())
    (server.path / "torn.yaml").write_text("# all that was written before the disk was full\n\n")
    assert shown(server, "apply", "torn.yaml") == (
        2,
        "muleteer: torn.yaml: declares nothing; to remove everything that is declared, write backends: {}\n",
    )
    assert shown(server, "apply", "muleteer.yaml", "--expect", "7")[0] == 8
    assert shown(server, "history")[1].count("\n") == 2


def test_a_version_that_does_not_start_is_reported_and_the_old_one_serves(server):
    assert shown(server, "apply", "muleteer.yaml")[0] == 0
    (server.path / "muleteer.yaml").write_text(YAML.replace("fancy_model.py:FancyModel", "raising_model.py:Model"))
    status, text = shown(server, "apply", "muleteer.yaml")
    assert status == 6
    assert text.splitlines()[:4] == [
        "~ backend lr:v1: replaces 1 replica one by one, no request lost",
        "    target: fancy_model.py:FancyModel → raising_model.py:Model",
        "revision 3; undo: muleteer rollback 2",
        "muleteer: lr:v1 does not start, and the old version goes on serving: Model() raised ValueError: no weights here",
    ]
    assert {call(server)[1] for _ in range(20)} <= {"Can't tell anything smart about: x", "X"}
    status, text = shown(server, "rollback", "2")
    assert (status, text.splitlines()[-1]) == (0, "settled after T s")


def test_what_was_declared_is_restored_whatever_ended_the_server(server):
    assert shown(server, "apply", "muleteer.yaml")[0] == 0
    assert server.muleteer("stop").returncode == 0
    done = server.muleteer("serve", "-d")
    assert done.returncode == 0, done.stderr
    assert "fancy_model.py:shout (lr:v2, 1 replica)" in done.stdout
    assert call(server)[0] == 200
    status, history = shown(server, "history")
    assert (status, history.count("\n")) == (0, 3)  # the same revision goes on


def test_a_file_is_served_and_a_model_without_replicas_holds_nothing_up(folder):
    (folder.path / "muleteer.yaml").write_text(
        'server: {port: 0}\nbackends:\n  a: {model: "fancy_model.py:shout", replicas: 0}\n'
        "endpoints:\n  e: {route: /predict, backend: a}\n"
    )
    try:
        done = folder.muleteer("serve", "-c", "muleteer.yaml", "-d")
        assert done.returncode == 0, done.stderr
        assert "/predict is not served: its model has no replicas\n" in done.stdout
        assert call(folder)[0] == 503
        assert shown(folder, "scale", "a", "1")[0] == 0
        assert call(folder) == (200, "X")
    finally:
        folder.muleteer("stop", "--now")


def test_a_rollout_from_start_to_end(server):
    assert shown(server, "apply", "muleteer.yaml")[0] == 0
    assert shown(server, "rollout", "fancy", "--to", "lr:v2") == (
        2,
        "muleteer: endpoint fancy is shared by several backends: a rollout compares one with one; set its traffic first\n",
    )
    assert shown(server, "traffic", "fancy", "lr:v1=1")[0] == 0
    assert shown(server, "rollout", "fancy", "--to", "lr:v2", "--steps", "100", "--interval", "100ms") == (
        0,
        (
            "rollout of fancy from lr:v1 to lr:v2, pending: waiting for the new version to be ready\n"
            "undo: muleteer rollout abort fancy\n"
        ),
    )
    status, text = shown(server, "rollout", "fancy", "--watch")
    assert status == 0
    assert text.splitlines()[-1].startswith("fancy completed at 100 %: ")
    assert call(server, "loud") == (200, "LOUD")
    status, text = shown(server, "rollout", "fancy")
    assert status == 0
    assert text.splitlines()[:3] == [
        "fancy: lr:v1 → lr:v2  completed",
        "█" * 40 + " 100 %  step 1 of 1",
        "VERSION  REQUESTS  ERRORS  P50  P99",
    ]


def test_a_rollout_is_held_and_given_up(server):
    assert shown(server, "apply", "muleteer.yaml")[0] == 0
    assert shown(server, "traffic", "fancy", "lr:v1=1")[0] == 0
    assert shown(server, "rollout", "fancy", "--to", "lr:v2", "--steps", "50,100")[0] == 0
    assert shown(server, "traffic", "fancy", "lr:v1=1", "lr:v2=1") == (
        2,
        "muleteer: a rollout moves the traffic of endpoint 'fancy': abort it first\n",
    )
    assert shown(server, "rollout", "pause", "fancy")[1].splitlines()[1] == "undo: muleteer rollout resume fancy"
    assert shown(server, "rollout", "resume", "fancy")[1].splitlines()[1] == "undo: muleteer rollout pause fancy"
    assert shown(server, "rollout", "abort", "fancy") == (
        0,
        "rollout of fancy from lr:v1 to lr:v2, aborted: aborted by hand\n",
    )
    assert shown(server, "rollout", "fancy", "--watch")[0] == 1
    assert call(server)[1] == "Can't tell anything smart about: x"

"""The command as a whole: help, version, what is refused and how, and what a start may cost."""

import json
import re
import subprocess
import sys

import pytest

import muleteer as package
from muleteer.base.errors import (
    AlreadyRunningError,
    NoAnswerError,
    NotRunningError,
    PortInUseError,
    StartupFailedError,
    UsageError,
    UsageErrors,
)
from muleteer.cli.main import VERBS, main
from tests.cli.command import environment, muleteer

OVERVIEW = """\
muleteer takes a plain Python class and serves it in production.

Start with these two:
  muleteer serve model.py:Model --route /predict
  curl -d '{"text": "hello"}' -H 'content-type: application/json' localhost:8000/predict

Commands (muleteer COMMAND --help says more):
  serve     serve models over HTTP
  status    what runs, like ps
  stop      stop the server, letting requests finish
  logs      what the processes wrote
  apply     declare what a muleteer.yaml declares
  diff      what apply would change, and what that costs
  traffic   split an endpoint's requests over backends
  rollout   move an endpoint to another backend in steps, back if that one is worse
  scale     how many replicas a backend has
  delete    remove a backend or an endpoint
  history   what was declared: when, by whom
  rollback  declare again what an earlier revision declared
  explain   why a backend has as many replicas, as long a queue and as large batches as it has
  check     start one replica of a model by itself and call it on its example
  plan      measure a model, and say what a rate within a target needs
  config    every setting with its value and where it came from; every limit with its reason
"""


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",), ("help",)])
def test_alone_it_shows_how_to_start(arguments):
    done = muleteer(*arguments)
    assert (done.returncode, done.stdout, done.stderr) == (0, OVERVIEW, "")


def test_version():
    done = muleteer("--version")
    assert (done.returncode, done.stdout) == (0, f"muleteer {package.__version__}\n")


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb):
    done = muleteer(verb, "--help")
    assert done.returncode == 0
    assert done.stdout.startswith(f"usage: muleteer {verb}")
    assert "--run-dir" in done.stdout or verb in ("check", "plan")  # they need no server


HOW = "muleteer serve model.py:Model --route /predict"
USAGE_ERRORS = [
    (["serv"], "unknown command serv; did you mean serve?"),
    (["--verison"], "unknown flag --verison; did you mean --version?"),
    (["frobnicate"], "unknown command frobnicate; muleteer --help lists them"),
    (
        ["serve"],
        "nothing to serve, and nothing was declared before: " + HOW,
    ),
    (["serve", "--replicas", "2"], "nothing to serve, and nothing was declared before: " + HOW),
    (["serve", "-c", "muleteer.yaml", "--empty"], "give -c or --empty, not both"),
    (["serve", "fancy_model.py:FancyModel", "-c", "muleteer.yaml"], "give TARGETs or -c, not both"),
    (["serve", "fancy_model.py:FancyModel", "--empty"], "give TARGETs or --empty, not both"),
    (
        ["serve", "--empty", "--replicas", "2"],
        "--replicas belongs to a TARGET, and there is none; a file says it for each backend",
    ),
    (
        ["serve", "--empty", "--admin-port", "9000"],
        "--admin-port needs a token: set MULETEER_ADMIN_TOKEN to at least 16 characters",
    ),
    (["serve", "-c", "absent.yaml"], "absent.yaml: cannot be read: No such file or directory"),
    (["apply"], "the following arguments are required: FILE; muleteer apply --help lists the flags"),
    (["apply", "absent.yaml"], "absent.yaml: cannot be read: No such file or directory"),
    (["diff", "absent.yaml"], "absent.yaml: cannot be read: No such file or directory"),
    (["traffic", "e", "lr:v1"], "'lr:v1' is no weight: write BACKEND=WEIGHT, for example lr:v1=90"),
    (["traffic", "e", "a=1", "a=2"], "a is given twice"),
    (["traffic", "e", "a=lots"], "'a=lots': 'lots' is not a number"),
    (["scale", "b", "1:"], "'1:' is neither a number of replicas nor a range such as 1:8"),
    (["scale", "b", "8:1"], "8:1: min 8 is more than max 1"),
    (["scale", "b", "many"], "'many' is neither a number of replicas nor a range such as 1:8"),
    (["rollout", "hold", "e"], "write muleteer rollout pause|resume|abort ENDPOINT, or ENDPOINT --to BACKEND"),
    (
        ["rollout", "pause", "e", "--to", "b"],
        "write muleteer rollout pause|resume|abort ENDPOINT, or ENDPOINT --to BACKEND",
    ),
    (["rollout", "e", "f", "g"], "muleteer rollout does not expect 'g'"),
    (["rollout", "e", "--steps", "1,100"], "--steps needs --to BACKEND: the steps of a rollout are set at its start"),
    (["rollout", "e", "--to", "b", "--steps", "1,x"], "--steps: 'x' is not a percentage"),
    (
        ["rollout", "e", "--to", "b", "--interval", "soon"],
        "--interval: 'soon' is not a time: write 100ms, 2s, 5min or 1h (a bare number is seconds)",
    ),
    (["rollback", "first"], "argument REVISION: invalid int value: 'first'; muleteer rollback --help lists the flags"),
    (["serve", "fancy_model.py:FancyModel", "--prot", "1"], "unknown flag --prot; did you mean --port?"),
    (["serve", "fancy_model.py:FancyModel", "--replica=2"], "unknown flag --replica; did you mean --replicas?"),
    (["serve", "fancy_model.py:FancyModel", "--zzz"], "unknown flag --zzz; muleteer serve --help lists them"),
    (["serve", "--port"], "argument --port: expected one argument; muleteer serve --help lists the flags"),
    (["serve", "fancy_model.py:FancyModel", "--port", "eighty"], "--port: 'eighty' is not a whole number"),
    (
        ["serve", "fancy_model.py:FancyModel", "--timeout", "3x"],
        "--timeout: '3x' is not a time: write 100ms, 2s, 5min or 1h (a bare number is seconds)",
    ),
    (
        ["serve", "fancy_model.py:FancyModel", "--max-body", "lots"],
        "--max-body: 'lots' is not a size: write 64MiB, 500KB or 2GiB (a bare number is bytes)",
    ),
    (
        ["serve", "fancy_model.py:FancyModel", "--replicas", "-1"],
        "--replicas: -1 is not allowed: at least 0 and at most 1024",
    ),
    (
        ["serve", "fancy_model.py:FancyModel", "--replicas", "2:1"],
        "--replicas: min 2 is more than max 1",
    ),
    (
        ["serve", "fancy_model.py:FancyModel", "--slo", "p95=1s"],
        "--slo: 'p95=1s' is not a response time to keep: write p99=100ms",
    ),
    (
        ["serve", "fancy_model.py:FancyModel", "--batch", "lists"],
        "--batch: 'lists' is not one of auto, off, list, stack; did you mean list?",
    ),
    (
        ["serve", "fancy_model.py:FancyModel", "--slo", "p99=1s", "--timeout", "1s"],
        "--slo: slo p99=1s is not below timeout 1s: a call as late as that is ended first",
    ),
    (
        ["serve", "fancy_model.py:FancyModel", "--gateways", "every_node"],
        "--gateways: every_node needs engine ray: engine local has one node; give a number",
    ),
    (
        ["serve", "fancy_model.py:FancyModel", "--gpus", "2", "--gpu-devices", "0"],
        "--gpus: one replica with 2 GPUs needs more than gpu_devices 0 has",
    ),
    (
        ["serve", "fancy_modle.py:FancyModel"],
        "target 'fancy_modle.py:FancyModel': there is no file fancy_modle.py; did you mean fancy_model.py?",
    ),
    (
        ["serve", "fancy_model.py:FancyModle"],
        "target 'fancy_model.py:FancyModle': fancy_model.py defines no 'FancyModle'; did you mean FancyModel?",
    ),
    (
        ["serve", "fancy_model.py"],
        "target 'fancy_model.py' names no class or function: write fancy_model.py:FancyModel",
    ),
    (
        ["serve", "fancy_model.py:FancyModel", "--route", "predict"],
        "--route 'predict' must start with a slash: /predict",
    ),
    (
        ["serve", "fancy_model.py:FancyModel", "--route", "/livez"],
        "--route /livez is taken: the gateway answers it itself",
    ),
    (
        ["serve", "fancy_model.py:FancyModel", "fancy_model.py:shout", "--route", "/a"],
        "1 --route for 2 targets: give one for each, in the order of the targets, or none",
    ),
    (
        ["serve", "fancy_model.py:FancyModel", "fancy_model.py:FancyModel", "--route", "/a", "--route", "/b"],
        "two targets are called FancyModel: tell them apart with --name",
    ),
    (["logs", "-n", "-1"], "--lines must not be negative"),
    (["check"], "the following arguments are required: TARGET; muleteer check --help lists the flags"),
    (["check", "fancy_model.py:FancyModel", "--calls", "0"], "--calls must be at least 1"),
    (["config", "--port", "70000"], "--port: 70000 is not allowed: at least 0 and at most 65535"),
    (["status", "extra"], "muleteer status does not expect 'extra'"),
    (["stop", "--quick"], "unknown flag --quick; muleteer stop --help lists them"),
    (["logs", "--lines", "x"], "argument -n/--lines: invalid int value: 'x'; muleteer logs --help lists the flags"),
]


@pytest.mark.parametrize(
    ("arguments", "line"), USAGE_ERRORS, ids=lambda value: " ".join(value) if value is list else None
)
def test_a_usage_error_is_one_line_and_status_2(folder, arguments, line):
    done = folder.muleteer(*arguments)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"muleteer: {line}\n")
    assert not folder.run_dir.exists()


def test_every_problem_of_a_command_line_is_shown_at_once(folder):
    done = folder.muleteer(
        "serve",
        "gone.py:X",
        "syntax_error.py:Model",
        "--route",
        "x",
        "--route",
        "/y z",
        "--port",
        "-1",
        MULETEER_GRACE="soon",
    )
    assert done.returncode == 2
    assert done.stderr.replace(str(folder.path), "FOLDER").splitlines() == [
        "muleteer: target 'gone.py:X': there is no file gone.py",
        "muleteer: target 'syntax_error.py:Model': FOLDER/syntax_error.py:1: expected ':'",
        "muleteer: --route 'x' must start with a slash: /x",
        "muleteer: --route '/y z' is not a path: letters, digits and -._~ between single slashes, none at the end",
        "muleteer: --port: -1 is not allowed: at least 0 and at most 65535",
        "muleteer: MULETEER_GRACE: 'soon' is not a time: write 100ms, 2s, 5min or 1h (a bare number is seconds)",
    ]


@pytest.mark.parametrize(
    "command",
    ["status", "stop", "logs", "history", "rollback", "traffic e a=1", "scale b 2", "delete backend b", "rollout e"],
)
def test_without_a_server_the_status_is_5(folder, command):
    done = folder.muleteer(*command.split())
    assert (done.returncode, done.stdout) == (5, "")
    assert re.fullmatch(rf"muleteer: [^\n]*{folder.run_dir}[^\n]*\n", done.stderr)


def test_exit_statuses_are_what_the_documentation_says():
    kinds = (NoAnswerError, UsageError, PortInUseError, AlreadyRunningError, NotRunningError, StartupFailedError)
    assert [kind.exit_status for kind in kinds] == [1, 2, 3, 4, 5, 6]
    assert UsageErrors([UsageError("a"), UsageError("b")]).exit_status == 2


def test_a_reader_that_goes_away_is_no_error():
    process = subprocess.Popen(
        [sys.executable, "-m", "muleteer.cli", "config"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    )
    process.stdout.close()
    with process.stderr:
        assert process.stderr.read() == b""
    assert process.wait(timeout=60) == 0


def loaded_by(code):
    """Modules that are imported after `code`."""
    script = f"import sys\n{code}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment(), check=True)
    return set(done.stdout.splitlines()[-1].split())


HEAVY = {"asyncio", "uvloop", "starlette", "uvicorn", "pydantic", "psutil", "httptools", "multiprocessing"}


def test_the_dispatcher_imports_next_to_nothing():
    loaded = loaded_by("from muleteer.cli.main import main; main(['--version'])")
    assert not loaded & (HEAVY | {"msgspec", "argparse", "http.client", "difflib"})


def test_status_imports_nothing_heavy():
    loaded = loaded_by("from muleteer.cli.main import main; import muleteer.cli.status")
    assert not loaded & (HEAVY | {"msgspec"})


def test_serve_imports_no_event_loop():
    assert not loaded_by("import muleteer.cli.serve") & HEAVY


def test_config_as_json_tells_origins(folder):
    done = folder.muleteer("config", "--json", "--port", "9000", MULETEER_TIMEOUT="100ms")
    shown = json.loads(done.stdout)
    found = {each["name"]: (each["value"], each["origin"]) for each in shown["settings"]}
    assert found["port"] == (9000, "--port")
    assert found["timeout"] == (0.1, "MULETEER_TIMEOUT")
    assert found["run_dir"] == (str(folder.run_dir.resolve()), "MULETEER_RUN_DIR")
    assert found["replicas"] == (None, "default")
    done = folder.muleteer("config", "--json", "--replicas", "0:8", MULETEER_SLO="p99=100ms")
    found = {each["name"]: (each["value"], each["origin"]) for each in json.loads(done.stdout)["settings"]}
    assert found["replicas"] == ({"min": 0, "max": 8}, "--replicas")
    assert found["slo"] == ({"p99": 0.1}, "MULETEER_SLO")
    assert all(limit["why"] for limit in shown["limits"])


def test_config_as_text_has_a_row_for_each_setting_and_limit(folder):
    lines = folder.muleteer("config", "--no-idempotent", "--max-body", "1MiB").stdout.splitlines()
    assert re.match(r"SETTING +VALUE +DEFAULT +FROM +WHAT IT IS; WHY THE DEFAULT$", lines[0])
    assert any(re.match(r"idempotent +off +on +--idempotent ", line) for line in lines)
    assert any(re.match(r"max_body +1MiB +64MiB +--max-body +largest request body", line) for line in lines)
    assert any(re.match(r"replicas +auto +auto +default ", line) for line in lines)
    lines = folder.muleteer("config", "--replicas", "0:8", "--slo", "p99=100ms", "--gateways", "2").stdout.splitlines()
    assert any(re.match(r"replicas +0:8 +auto +--replicas ", line) for line in lines)
    assert any(re.match(r"slo +p99=100ms +none +--slo ", line) for line in lines)
    assert any(re.match(r"gateways +2 +1 +--gateways ", line) for line in lines)
    assert any(re.match(r"header_fields_max +100 +fields ", line) for line in lines)


def test_main_can_be_called_from_python(capsys):
    assert main(["--version"]) == 0
    assert main(["nonsense"]) == 2
    assert capsys.readouterr().err == "muleteer: unknown command nonsense; muleteer --help lists them\n"

"""The Python client against real servers: what each method changes, what it raises, and how long a server lives."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import muleteer
from tests.client.place import DEADLINE_S
from tests.waiting import until

MODELS = """\
import os, time

class Echo:
    def predict(self, text: str) -> str:
        return text

class Sleeper:
    def predict(self, seconds: float) -> int:
        time.sleep(seconds)
        return os.getpid()

class Waits:
    def predict(self, write: str, wait_for: str) -> int:
        open(write, "w").close()
        while not os.path.exists(wait_for):
            time.sleep(0.005)
        return os.getpid()

class Broken:
    def __init__(self):
        raise ValueError("no weights here")
    def predict(self): ...
"""


@pytest.fixture
def models(place):
    place.write("models.py", MODELS)
    return str(place.path / "models.py")


def test_importing_muleteer_loads_nothing_of_the_client():
    code = (
        "import sys, muleteer; print([n for n in sys.modules if n.startswith('muleteer.') or n in ('http', 'msgspec')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_every_exported_name_is_there_and_no_other():
    assert all(getattr(muleteer, name) for name in muleteer.__all__)
    with pytest.raises(AttributeError, match="module 'muleteer' has no attribute 'strat'"):
        muleteer.strat  # noqa: B018


# what is declared


def test_backends_are_created_changed_listed_and_deleted(client, models):
    client.create_backend("lr:v1", f"{models}:Echo", timeout="10s")
    assert client.get_backend_config("lr:v1") == {
        "model": f"{models}:Echo",
        "base_dir": str(Path.cwd()),
        "timeout": "10s",
    }
    client.update_backend_config("lr:v1", {"replicas": 2}, timeout=None)
    assert client.list_backends() == {"lr:v1": {"model": f"{models}:Echo", "base_dir": str(Path.cwd()), "replicas": 2}}
    [backend] = client.status()["backends"]
    assert [replica["state"] for replica in backend["replicas"]] == ["ready", "ready"]
    client.delete_backend("lr:v1")
    assert client.list_backends() == {}


def test_ranges_and_targets_are_given_as_one_would_write_them_and_come_back_as_declared(client, models):
    declared = {"model": f"{models}:Echo", "base_dir": str(Path.cwd())}
    client.create_backend("a", f"{models}:Echo", replicas=(1, 2), slo="p99=100ms")
    found = client.get_backend_config("a")
    assert found == {**declared, "replicas": {"min": 1, "max": 2}, "slo": {"p99": "100ms"}}
    client.update_backend_config("a", found)
    assert client.get_backend_config("a") == found
    client.update_backend_config("a", {"slo": {"p99": 0.5}}, replicas=1)
    assert client.get_backend_config("a") == {**declared, "replicas": 1, "slo": {"p99": "500ms"}}
    client.update_backend_config("a", slo=None, replicas=None)
    assert client.get_backend_config("a") == declared
    for wrong, problem in [
        ({"replicas": (2, 1)}, "backends.a.replicas: min 2 is more than max 1"),
        ({"slo": "p95=1s"}, "backends.a.slo.p95: unknown key; did you mean p99?"),
        (
            {"slo": {"p99": 60}},
            "backends.a.slo: slo p99=60s is not below timeout 30s: a call as late as that is ended first",
        ),
    ]:
        with pytest.raises(muleteer.AdminRefused) as caught:
            client.update_backend_config("a", wrong)
        assert caught.value.problems == (problem,)


def test_an_endpoint_travels_as_its_traffic_says_when_the_call_returns(client, models):
    client.create_backend("a", f"{models}:Echo")
    client.create_backend("b", f"{models}:Sleeper")
    client.create_endpoint("e", backend="a", route="/e", affinity={"header": "x-session-id"})
    assert client.list_endpoints() == {"e": {"route": "/e", "backend": "a", "affinity": {"header": "x-session-id"}}}
    with client.get_handle("e") as handle:
        assert handle.remote(text="hello").result(40) == "hello"
        client.set_traffic("e", {"b": 1})
        assert isinstance(handle.remote(seconds=0).result(40), int)
        client.delete_endpoint("e")
        with pytest.raises(muleteer.CallFailed) as failed:
            handle.remote(seconds=0).result(40)
        assert (failed.value.status, failed.value.code) == (404, "not_found")


def test_the_first_request_after_the_call_is_answered(client, models):
    for number in range(20):
        name = f"m{number}"
        client.create_backend(name, f"{models}:Echo")
        client.create_endpoint(name, backend=name, route=f"/{name}")
        with client.get_handle(name) as handle:
            assert handle.remote(text=name).result(40) == name
        client.delete_endpoint(name)
        client.delete_backend(name)


def refused(call, *arguments, **more):
    with pytest.raises(muleteer.AdminRefused) as caught:
        call(*arguments, **more)
    return caught.value.status, caught.value.code, str(caught.value)


def test_what_does_not_fit_is_refused_in_words(client, models):
    client.create_backend("a", f"{models}:Echo")
    client.create_endpoint("e", backend="a", route="/e")
    assert refused(client.create_backend, "a", f"{models}:Echo") == (409, "exists", "there is a backend 'a' already")
    assert refused(client.create_endpoint, "e", backend="a", route="/f")[:2] == (409, "exists")
    assert refused(client.delete_backend, "a") == (409, "in_use", "backend 'a' is in use by endpoint 'e'")
    assert refused(client.delete_backend, "x")[:2] == (404, "not_found")
    status, _, sentence = refused(client.create_backend, "b", f"{models}:Ecko")
    assert (status, sentence.split("; ")[-1]) == (400, "did you mean Echo?")
    status, _, sentence = refused(client.update_backend_config, "a", repliks=2)
    assert status == 400
    assert "replicas" in sentence
    assert list(client.list_backends()) == ["a"]


def test_a_model_that_does_not_start_is_raised_with_its_reason_and_the_old_one_serves(client, models):
    with pytest.raises(
        muleteer.StartFailed, match=r"^bad does not start: Broken\(\) raised ValueError: no weights here"
    ):
        client.create_backend("bad", f"{models}:Broken")
    client.create_backend("good", f"{models}:Echo")  # the other that fails does not hold it up
    client.create_endpoint("e", backend="good", route="/e")
    with pytest.raises(muleteer.StartFailed, match=r"^good does not start, and the old version goes on serving: "):
        client.update_backend_config("good", model=f"{models}:Broken")
    with client.get_handle("e") as handle:
        assert handle.remote(text="still").result(40) == "still"


# classes


def test_a_class_of_a_script_is_served(place, client):
    place.write(
        "train.py",
        """
        import muleteer
        PREFIX = "it is "
        class Model:
            def predict(self, text): return PREFIX + text
        weights = list(range(3))
        class Computed:
            def predict(self, text): return weights
        if __name__ == "__main__":
            client = muleteer.connect()
            client.create_backend("m", Model)
            client.create_endpoint("e", backend="m", route="/e")
            try:
                client.create_backend("c", Computed)
            except muleteer.CannotShip as error:
                print(error)
        """,
    )
    assert place.run("train.py") == (
        "cannot ship Computed: it uses weights, which is computed (train.py:6: weights = list(range(3))): "
        "compute it in __init__, or move Computed into a module of its own and import it\n"
    )
    with client.get_handle("e") as handle:
        assert handle.remote(text="so").result(40) == "it is so"
    assert list(client.list_backends()) == ["m"]
    target = client.get_backend_config("m")["model"]
    assert target.startswith(str(place.path / "state"))


# handles


def test_answers_are_awaited_and_calls_run_side_by_side(place, client, models):
    client.create_backend("w", f"{models}:Waits", replicas=2, expected=0.3)
    client.create_endpoint("e", backend="w", route="/e")
    one, other = str(place.path / "one"), str(place.path / "other")

    async def main():
        with client.get_handle("e") as handle:
            first, second = handle.remote(write=one, wait_for=other), handle.remote(write=other, wait_for=one)
            return await asyncio.gather(first, second)

    assert len(set(asyncio.run(main()))) == 2


def test_a_call_that_is_not_waited_for_goes_on(place, client, models):
    client.create_backend("w", f"{models}:Waits")
    client.create_endpoint("e", backend="w", route="/e")
    with client.get_handle("e") as handle:
        answer = handle.remote(write=str(place.path / "begun"), wait_for=str(place.path / "go"))
        with pytest.raises(TimeoutError):
            answer.result(0.01)
        (place.path / "go").touch()
        assert isinstance(answer.result(40), int)


def test_a_call_that_fails_says_how(client, models):
    client.create_backend("s", f"{models}:Sleeper")
    client.create_endpoint("e", backend="s", route="/e")
    with client.get_handle("e") as handle:
        with pytest.raises(muleteer.CallFailed) as failed:
            handle.remote(second=1).result(40)
        error = failed.value
        assert (error.status, error.code, error.execution, error.retryable) == (
            400,
            "bad_arguments",
            "not_started",
            False,
        )
        assert error.request_id
        with pytest.raises(muleteer.CallFailed) as failed:
            handle.options(timeout=1.0).remote(seconds=5).result(40)
        assert (failed.value.status, failed.value.code) == (504, "deadline")
        with pytest.raises(TypeError):
            handle.remote(1, 2)
        with pytest.raises(ValueError, match="not JSON compliant"):
            handle.remote(seconds=float("nan"))


def test_one_value_as_it_is(client, models):
    client.create_backend("a", f"{models}:Echo")
    client.create_endpoint("e", backend="a", route="/e")
    with client.get_handle("e") as handle:
        assert handle.remote("plain").result(40) == "plain"


def test_a_handle_goes_on_with_a_gateway_that_was_started_again(client, models):
    client.create_backend("a", f"{models}:Echo")
    client.create_endpoint("e", backend="a", route="/e")
    with client.get_handle("e") as handle:
        assert handle.remote("before").result(40) == "before"
        [pid] = [each["pid"] for each in client.status()["processes"] if each["id"] == "gateway-0"]
        os.kill(pid, signal.SIGKILL)

        def answers():
            try:
                return handle.remote("after").result(40) == "after"
            except muleteer.CallFailed as error:
                assert error.retryable
                return False

        until(answers, "an answer of the new gateway")


# servers


STARTED = "import muleteer, sys\nclient = muleteer.start(http_options={'port': 0})\nprint(client.address, flush=True)\n"


def test_a_tethered_server_ends_with_its_program(place):
    place.write("own.py", STARTED)
    assert place.run("own.py").startswith("http://127.0.0.1:")
    until(lambda: not place.processes(), "the end of the server")


def test_a_tethered_server_ends_with_a_program_that_is_killed_and_a_fork_of_it_holds_nothing(place):
    place.write("own.py", STARTED + "import os, time\nif os.fork() == 0: os.setsid()\ntime.sleep(600)\n")
    process = place.program("own.py")
    with process.stdout:
        assert process.stdout.readline().startswith("http://")
        servers = set(place.processes()) - {process.pid}
        assert servers
        process.kill()
        process.wait()
    until(lambda: not [pid for pid in place.processes() if b"muleteer" in command_line(pid)], "the end of the server")
    for pid in place.processes():  # the fork
        os.kill(pid, signal.SIGKILL)


def command_line(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def test_a_block_stops_the_server_it_started(place):
    with place.settings():
        with muleteer.start(http_options={"port": 0}) as client:
            assert client.status()["settled"]
        with pytest.raises(muleteer.AdminUnreachable, match=r"^no muleteer runs in "):
            muleteer.connect()


def test_a_detached_server_survives_and_is_found_again(place, client):
    with place.settings():
        again = muleteer.start(detached=True, http_options={"port": 0})
        assert again.status()["pid"] == client.status()["pid"] == muleteer.connect().status()["pid"]
        with pytest.raises(
            muleteer.ServerNotStarted, match=r" on port \d+, not 1: stop it, or choose another run_dir$"
        ):
            muleteer.start(http_options={"port": 1})
        with muleteer.start():  # not ours: leaving the block does not stop it
            pass
        assert client.status()["pid"] == again.status()["pid"]
        client.shutdown()
        with pytest.raises(muleteer.AdminUnreachable):
            again.status()


def test_a_server_that_cannot_start_says_why(place):
    with place.settings(), socket.create_server(("127.0.0.1", 0)) as taken:
        with pytest.raises(muleteer.ServerNotStarted, match="in use") as failed:
            muleteer.start(http_options={"port": taken.getsockname()[1]})
        assert failed.value.exit_status == 3
    with pytest.raises(TypeError, match=r"http_options has no 'prot': it takes host and port"):
        muleteer.start(http_options={"prot": 1})


def test_over_the_network_with_a_token(place, models):
    token = "0123456789abcdef-token"
    with place.settings():
        os.environ["MULETEER_ADMIN_TOKEN"] = token
        done = subprocess.run(
            [sys.executable, "-m", "muleteer.cli", "serve", "--empty", "-d", "--port", "0", "--admin-port", "0"],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        start = json.loads((place.run_dir / "declared.json").read_text())
        assert (place.run_dir / "declared.json").stat().st_mode & 0o777 == 0o600
        url = f"http://127.0.0.1:{start['server']['admin_port']}"
        for wrong in (None, "0123456789abcdef-wrong"):
            with pytest.raises(muleteer.AdminRefused) as caught:
                muleteer.connect(url=url, token=wrong)
            assert (caught.value.status, caught.value.code) == (401, "unauthorized")
        client = muleteer.connect(url=url, token=token)
        client.create_backend("a", f"{models}:Echo")
        client.create_endpoint("e", backend="a", route="/e")
        with client.get_handle("e") as handle:
            assert handle.remote("far").result(40) == "far"
        with pytest.raises(muleteer.CannotShip, match=r"over the network"):
            client.create_backend("c", json.JSONDecoder)


def test_a_change_waits_for_a_controller_that_is_killed(client, models):
    [pid] = [each["pid"] for each in client.status()["processes"] if each["id"] == "controller"]
    os.kill(pid, signal.SIGKILL)
    until(lambda: not Path(f"/proc/{pid}").exists(), "its end")
    client.create_backend("a", f"{models}:Echo")
    assert list(client.list_backends()) == ["a"]


def test_the_async_client_has_every_method_of_the_other(place, models):
    from muleteer.client.aio import AsyncClient
    from muleteer.client.client import Client

    public = {name for name in vars(Client) if not name.startswith("_")}
    assert public <= {name for name in vars(AsyncClient) if not name.startswith("_")}

    async def main():
        async with await muleteer.AsyncClient.start(http_options={"port": 0}) as client:
            await client.create_backend("a", f"{models}:Echo")
            await client.create_endpoint("e", backend="a", route="/e")
            await client.update_backend_config("a", replicas=2)
            await client.set_traffic("e", {"a": 5})
            handle = await client.get_handle("e")
            with handle:
                assert await handle.remote(text="hello") == "hello"
            assert (await client.address()).startswith("http://127.0.0.1:")
            assert (await client.get_backend_config("a"))["replicas"] == 2
            assert [*await client.list_backends(), *await client.list_endpoints()] == ["a", "e"]
            await client.delete_endpoint("e")
            await client.delete_backend("a")
            assert (await client.status())["backends"] == []

    with place.settings():
        asyncio.run(asyncio.wait_for(main(), DEADLINE_S))
        assert threading.active_count() < 40

"""The 45 language models: what each says, that the router knows them all, and that the file declares them."""

import importlib
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from bench.server import Server
from muleteer.spec.file import load_file

FOLDER = Path(__file__).parents[2] / "examples" / "languages"
SENTENCES = [line.split("\t") for line in (FOLDER / "sentences.tsv").read_text().splitlines()]
TRANSLATED = {"en": "en-pt", "pt": "pt-en"}

pytest.importorskip("uroman")


@pytest.fixture(scope="module")
def models():
    """`models(TARGET)` → the module and class that a replica would load; modules are forgotten in the end."""
    before = set(sys.modules)
    sys.path.insert(0, str(FOLDER))

    def load(target):
        file, _, name = target.partition(":")
        return getattr(importlib.import_module(file.removesuffix(".py")), name)

    yield load
    sys.path.remove(str(FOLDER))
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and FOLDER in Path(sys.modules[name].__file__).parents:
            del sys.modules[name]


@pytest.fixture(scope="module")
def declared():
    return load_file(FOLDER / "muleteer.yaml")


@pytest.fixture(scope="module")
def uroman(models):
    """Its tables, read once: each replica reads them for itself, in seconds."""
    return models("uroman_languages.py:Armenian")().uroman


@pytest.mark.parametrize("line", SENTENCES, ids=[line[0] for line in SENTENCES])
def test_what_each_model_makes_of_a_sentence(declared, models, uroman, line):
    language, text, expected = line
    name = TRANSLATED.get(language, language)
    (target,) = (backend.target for backend in declared.backends if backend.name == name)
    cls = models(target)
    if target.startswith("uroman"):
        model = cls.__new__(cls)
        model.uroman = uroman
    else:
        model = cls()
    assert model.predict(text) == expected
    assert model.predict("") == ""
    if hasattr(model, "close"):
        model.close()


def test_the_router_knows_every_sentence(models):
    router = models("router.py:Router")()
    assert [router.predict(text) for _, text, _ in SENTENCES] == [language for language, *_ in SENTENCES]


def test_what_the_router_answers_has_an_endpoint(declared, models):
    languages = models("router.py:LANGUAGES")
    routes = {f"/translate/{TRANSLATED[language]}" if language in TRANSLATED else f"/romanise/{language}"
              for language in languages}  # fmt: skip
    assert {endpoint.route for endpoint in declared.endpoints} == {*routes, "/detect"}
    assert len(declared.backends) == len(routes) + 1 == 45
    assert sorted(languages) == sorted(language for language, *_ in SENTENCES)


def test_all_may_sleep_and_some_may_run(declared):
    assert {(backend.settings.bounds.min, backend.settings.bounds.max) for backend in declared.backends} == {(0, 2)}
    assert declared.server.memory_budget


def test_from_text_to_the_right_endpoint(tmp_path):
    """Nothing runs; three questions wake four models, each on its own."""
    chosen = [line for line in SENTENCES if line[0] in ("te", "sr", "en")]  # those that load quickly
    file = shutil.copytree(FOLDER, tmp_path / "languages") / "muleteer.yaml"
    # What is asked here is who wakes, not whether a busy machine starts it within the default deadline.
    file.write_text(re.sub(r"replicas: (\*some|&some {.*?})}", r"replicas: \1, timeout: 100s}", file.read_text()))
    with Server(tmp_path, "-c", str(file)) as server:
        assert server.pids("replica") == []
        done = subprocess.run(
            [sys.executable, FOLDER / "ask.py", *(text for _, text, _ in chosen)],
            env={**os.environ, "SERVER": f"http://127.0.0.1:{server.port}"},
            capture_output=True,
            text=True,
            timeout=100,
        )
        assert done.stderr == ""
        assert done.stdout.splitlines() == [f"{language}\t{expected}" for language, _, expected in chosen]
        awake = {b["name"]: (len(b["replicas"]), b["sizing"]["reason"]) for b in server.status()["backends"]}
        awake = {name: found for name, found in awake.items() if found[0]}
        assert set(awake) == {"router", "te", "sr", "en-pt"}, awake
        assert [awake[name][0] for name in ("te", "sr", "en-pt")] == [1, 1, 1], awake  # a single call each


def test_a_refusal_is_told_in_the_servers_words():
    class Full(BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["content-length"]))
            body = b'{"error": "router does not fit beside the models that are in use", "code": "memory"}'
            self.send_response(503)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    def ask(port):
        environment = {**os.environ, "SERVER": f"http://127.0.0.1:{port}"}
        return subprocess.run(
            [sys.executable, FOLDER / "ask.py", "hi"], env=environment, capture_output=True, text=True
        )

    with HTTPServer(("127.0.0.1", 0), Full) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        refused = ask(server.server_port)
        server.shutdown()
        thread.join()
    assert (refused.returncode, refused.stderr) == (
        1,
        "/detect: 503, router does not fit beside the models that are in use\n",
    )
    with socket.socket() as taken:  # by nobody who listens
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        nobody = ask(port)
    assert nobody.returncode == 1
    assert nobody.stderr.startswith(f"/detect: http://127.0.0.1:{port} does not answer: ")

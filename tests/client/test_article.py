"""The article's last program runs as it stands, and what it serves answers curl."""

import json
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest

ARTICLE = Path(__file__).parent / "article"


def curl(port, text):
    body = json.dumps({"text": text})
    command = ["curl", "-sS", "-i", "-d", body, "-H", "content-type: application/json"]
    done = subprocess.run([*command, f"http://127.0.0.1:{port}/predict"], capture_output=True, text=True, timeout=40)
    assert done.returncode == 0, done.stderr
    head, _, answer = done.stdout.partition("\n\n")
    return int(head.split()[1]), re.search(r"(?im)^muleteer-backend: (\S+)", head)[1], json.loads(answer)


@pytest.mark.skipif(shutil.which("curl") is None, reason="the article calls it with curl")
def test_the_articles_last_program(place):
    place.run(ARTICLE / "serve_fancy_model.py", 0)
    port = json.loads((place.run_dir / "lock").read_text())["port"]
    said = {
        "lr:v1": "Can't tell anything smart about: tadaaam",
        "lr:v2": "Version 2 can't tell anything smart about: tadaaam",
    }
    seen = Counter()
    for _ in range(100):
        status, backend, answer = curl(port, "tadaaam")
        assert (status, answer) == (200, said[backend])
        seen[backend] += 1
    assert 70 <= seen["lr:v1"] <= 99  # of 100 at 0.9: outside once in 50,000 runs
    declared = json.loads(place.command("history", "5").stdout)["declared"]
    assert declared["endpoints"] == {"fancy_predictor": {"route": "/predict", "traffic": {"lr:v1": 0.9, "lr:v2": 0.1}}}


def test_the_program_is_the_articles():
    """But for the address and the names of two modules: nothing that the article does not have."""
    lines = [line for line in (ARTICLE / "serve_fancy_model.py").read_text().splitlines() if line.startswith("client")]
    calls = [re.match(r"client(?: = muleteer)?\.(\w+)", line)[1] for line in lines]
    assert calls == ["start", "create_backend", "create_endpoint", "create_backend", "set_traffic"]

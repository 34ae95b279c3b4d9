"""`muleteer check` with real replicas."""

import re

import pytest

from tests.processes import processes_of


def normalised(text, folder):
    text = re.sub(r"\d+(\.\d+)? ms", "N ms", text.replace(str(folder.path), "FOLDER"))
    return re.sub(r"\d+(\.\d)?MiB", "N MiB", text)


def test_a_good_model(folder):
    done = folder.muleteer("check", "fancy_model.py:FancyModel", "--calls", "3")
    assert (done.returncode, done.stderr) == (0, "")
    assert (
        normalised(done.stdout, folder)
        == """\
fancy_model.py:FancyModel
  import    N ms
  load      N ms
  warm_up   N ms
  ready     N ms after its start
  takes     text: str
  returns   str
  example   {"text":"tadaaam"} → "Can't tell anything smart about: tadaaam"
  call      N ms (median of 3, N ms to N ms)
  memory    N MiB
ok
"""
    )


def test_a_function_without_an_example(folder):
    done = folder.muleteer("check", "fancy_model:shout")
    assert done.returncode == 0
    assert "  takes     text: str, times: int = 1\n  returns   not said" in done.stdout
    assert "  calls     none: a class attribute `example`" in done.stdout


@pytest.mark.parametrize(
    ("target", "line"),
    [
        (
            "broken_model.py:Model",
            "import_error: cannot import broken_model.py: ModuleNotFoundError: No module named 'nonexistent_package'",
        ),
        ("raising_model.py:Model", "constructor_raised: Model() raised ValueError: no weights here"),
    ],
)
def test_a_model_that_cannot_be_served_shows_its_own_frames_only(folder, target, line):
    done = folder.muleteer("check", target)
    assert done.returncode == 6
    assert f"muleteer: cannot serve {target}: {line}\n  Traceback (most recent call last):\n" in done.stderr
    shown = done.stderr[done.stderr.index("muleteer: cannot serve") :]
    assert str(folder.path / target.partition(":")[0]) in shown
    assert "src/muleteer" not in shown
    assert processes_of(folder.path) == []


def test_a_model_that_dies_without_a_word(folder):
    (folder.path / "dying.py").write_text("import os\nprint('so long')\nos._exit(3)\nModel = None\n")
    done = folder.muleteer("check", "dying.py:Model")
    assert done.returncode == 6
    assert "muleteer: cannot serve dying.py:Model: exited with status 3\n  so long\n" in done.stderr


def test_a_model_that_never_gets_ready(folder):
    (folder.path / "slow.py").write_text(
        "import time\nclass Model:\n    def __init__(self): time.sleep(600)\n    def predict(self): ...\n"
    )
    done = folder.muleteer("check", "slow.py:Model", "--load-timeout", "500ms")
    assert (done.returncode, done.stderr) == (6, "muleteer: cannot serve slow.py:Model: not ready after 0.5 s\n")
    assert processes_of(folder.path) == []

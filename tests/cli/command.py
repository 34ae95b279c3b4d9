"""The real command in a process of its own, and a folder with models, for the tests of this folder."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

MULETEER = (sys.executable, "-m", "muleteer.cli")
MODELS = {
    "fancy_model.py": """\
class FancyModel:
    example = {"text": "tadaaam"}
    def predict(self, text: str) -> str:
        return f"Can't tell anything smart about: {text}"

def shout(text: str, times: int = 1):
    print("shouting", text)
    return text.upper() * times
""",
    "broken_model.py": """\
import nonexistent_package
class Model:
    def predict(self, text): ...
""",
    "raising_model.py": """\
class Model:
    def __init__(self):
        self.read_weights()
    def read_weights(self):
        raise ValueError("no weights here")
    def predict(self, text): ...
""",
    "syntax_error.py": "class Model\n    pass\n",
}


def environment(**more):
    """This process's, without settings of muleteer or colours that somebody exported."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MULETEER_", "XDG_"))}
    return {**kept, "NO_COLOR": "1", "COLUMNS": "100", **more}


def muleteer(*arguments, cwd=None, timeout=100, **more):
    """Run one command to its end."""
    return subprocess.run(
        [*MULETEER, *map(str, arguments)],
        cwd=cwd,
        env=environment(**more),
        capture_output=True,
        text=True,
        timeout=timeout,
        stdin=subprocess.DEVNULL,
    )


class Folder:
    """Models, and a run directory with a path short enough for sockets."""

    def __init__(self):
        self.path = Path(tempfile.mkdtemp(prefix="mt-"))
        self.run_dir = self.path / "run"
        for name, text in MODELS.items():
            (self.path / name).write_text(text)

    def muleteer(self, *arguments, **more):
        return muleteer(*arguments, cwd=self.path, **{**self.environment(), **more})

    def environment(self):
        """Settings that keep a server and its state in this folder."""
        return {"MULETEER_RUN_DIR": str(self.run_dir), "XDG_STATE_HOME": str(self.path / "state")}

    def close(self):
        shutil.rmtree(self.path)

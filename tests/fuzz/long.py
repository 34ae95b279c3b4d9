"""The long form of both fuzzers: `python -m tests.fuzz.long [SECONDS]`, spread over all their tests, fresh seeds."""

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
TESTS_OF_WIRE = 5


def main() -> int:
    """Returns pytest's exit status; each test of the wire gets its share of the time, the HTTP fuzzer half of it."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 600.0
    status = 0
    for name, share in (("test_wire_fuzz.py", 0.5 / TESTS_OF_WIRE), ("test_http_fuzz.py", 0.5)):
        path = HERE / name
        if not path.exists():
            print(f"{name} is missing", file=sys.stderr)
            status = status or 1
            continue
        env = os.environ | {"MULETEER_FUZZ_SECONDS": str(seconds * share)}
        command = [sys.executable, "-m", "pytest", str(path), "-q", "-s", "--timeout", str(int(seconds) + 120)]
        status = subprocess.run(command, env=env, check=False).returncode or status
    return status


if __name__ == "__main__":
    sys.exit(main())

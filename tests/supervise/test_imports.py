import subprocess
import sys


def test_the_supervisor_stays_light():
    """It is always resident and starts first: no event loop, no HTTP, no TLS."""
    program = "import sys, muleteer.supervise.supervisor; print(*sys.modules)"
    loaded = set(
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    )
    assert not loaded & {"asyncio", "uvloop", "httptools", "psutil", "ssl", "http", "multiprocessing"}
    assert {name for name in loaded if name.startswith("muleteer.")} & {"muleteer.gateway", "muleteer.replica"} == set()

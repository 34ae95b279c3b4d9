import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from muleteer.base.errors import PortInUseError, UsageError
from muleteer.supervise.sockets import UNIX_PATH_BYTES_MAX, listen_tcp, listen_unix, remove_socket


def can_connect(address, family=socket.AF_INET):
    with socket.socket(family) as peer:
        return peer.connect_ex(address) == 0


@pytest.mark.parametrize(
    ("host", "family"),
    [
        ("127.0.0.1", socket.AF_INET),
        ("localhost", socket.AF_INET),
        ("::1", socket.AF_INET6),
        ("[::1]", socket.AF_INET6),
    ],
)
def test_tcp(host, family):
    with listen_tcp(host, 0) as listener:
        assert listener.family == family
        assert can_connect(listener.getsockname(), family)
        assert not listener.get_inheritable()


def test_every_address_of_both_families():
    with listen_tcp("::", 0) as listener:
        port = listener.getsockname()[1]
        assert can_connect(("127.0.0.1", port))
        assert can_connect(("::1", port), socket.AF_INET6)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_port_in_use_names_its_holder(host):
    program = f"import socket, sys; s = socket.create_server(({host!r}, 0), family={'socket.AF_INET6' if ':' in host else 'socket.AF_INET'}); print(s.getsockname()[1], flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", program, "somebody-else"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        port = int(holder.stdout.readline())
        with pytest.raises(PortInUseError) as error:
            listen_tcp(host, port)
        holder.stdin.close()
    assert f"port {port} on {host} is in use by pid {holder.pid} (" in str(error.value)
    assert "python" in str(error.value)
    assert "\n" not in str(error.value)
    assert error.value.exit_status == 3


@pytest.mark.parametrize(
    ("host", "port", "said"),
    [
        ("", 0, "host to listen on is empty"),
        ("no such host", 0, "cannot listen on host 'no such host'"),
        ("a" * 70 + ".example", 0, "cannot listen on host"),
        ("192.0.2.1", 0, "not an address of this machine"),
        ("127.0.0.1", 65536, "port 65536 does not exist"),
        ("127.0.0.1", -1, "port -1 does not exist"),
    ],
)
def test_what_cannot_be_listened_on_is_said(host, port, said):
    with pytest.raises(UsageError, match=said):
        listen_tcp(host, port)


def test_a_privileged_port_is_said_to_be_one():
    if int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()) <= 81:
        pytest.skip("no port is privileged here")
    program = """if True:
        import os
        from muleteer.supervise.sockets import listen_tcp
        listen_tcp("127.0.0.1", 0).close()  # loads all that it needs while the library can still be read
        if os.getuid() == 0:
            os.setuid(65534)
        listen_tcp("127.0.0.1", 81)
    """
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stderr
    assert "UsageError: port 81 needs a privilege" in said


def test_unix_is_private_and_takes_the_place_of_a_stale_one(place):
    path = str(place / "x.sock")
    listen_unix(path).close()  # stale
    before = os.umask(0)
    try:
        with listen_unix(path):
            assert Path(path).stat().st_mode & 0o777 == 0o600
            assert can_connect(path, socket.AF_UNIX)
    finally:
        os.umask(before)


def test_unix_path_is_measured_in_bytes(place):
    room = UNIX_PATH_BYTES_MAX - len(str(place)) - 1
    listen_unix(str(place / ("x" * room))).close()
    with pytest.raises(UsageError, match="choose a shorter run directory"):
        listen_unix(str(place / ("é" * (room // 2 + 1))))


def test_unix_never_removes_what_is_no_socket(place):
    (place / "thesis.tex").write_text("x")
    remove_socket(str(place / "thesis.tex"))
    with pytest.raises(UsageError, match="exists and is not a socket"):
        listen_unix(str(place / "thesis.tex"))
    assert (place / "thesis.tex").read_text() == "x"

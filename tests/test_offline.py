import multiprocessing
import socket
import subprocess
import sys
import urllib.error
import urllib.request

import pytest

from tests.offline import ALLOWED, MESSAGE
from tests.support import run_python

ELSEWHERE = "192.0.2.1"  # reserved for documentation, RFC 5737


@pytest.mark.parametrize("connect", ["connect", "connect_ex"])
def test_addresses_of_other_machines_are_blocked(connect):
    with socket.socket() as sock, pytest.raises(OSError, match=MESSAGE):
        getattr(sock, connect)((ELSEWHERE, 80))


def test_names_of_other_machines_are_blocked():
    with pytest.raises(urllib.error.URLError, match=MESSAGE):
        urllib.request.urlopen("http://example.org", timeout=1)


def test_this_machine_can_be_reached_only_by_a_test_that_asks_for_it(monkeypatch):
    monkeypatch.setitem(ALLOWED, "this machine", False)  # a browser of other tests may be open
    with socket.create_server(("127.0.0.1", 0)) as server, pytest.raises(OSError, match=MESSAGE):
        socket.create_connection(server.getsockname())


def test_this_machine_can_be_reached(loopback):
    with socket.create_server(("127.0.0.1", 0)) as server:
        with socket.create_connection(("localhost", server.getsockname()[1])) as sock:
            connection, _ = server.accept()
            with connection:
                sock.sendall(b"x")
                assert connection.recv(1) == b"x"


def test_processes_that_tests_start_are_blocked():
    code = f"""
import socket
try:
    socket.create_connection(("{ELSEWHERE}", 80), timeout=1)
except OSError as error:
    print(error)
"""
    assert MESSAGE in run_python(code)


def elsewhere(_=None) -> str:
    try:
        socket.create_connection((ELSEWHERE, 80), timeout=1)
    except OSError as error:
        return str(error)
    return ""


def test_any_python_that_a_test_starts_is_blocked():
    code = f"import socket; socket.create_connection(({ELSEWHERE!r}, 80), timeout=1)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert MESSAGE in done.stderr


@pytest.mark.slow
@pytest.mark.integration
@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.sweep)])
def test_workers_are_blocked(method):
    with multiprocessing.get_context(method).Pool(1) as pool:
        assert MESSAGE in pool.map(elsewhere, [0])[0]

"""Run code in new processes that need not import the libraries again.

A server imports the libraries that the package uses, not the package, and forks itself for each
program: seconds are saved for each test that opens a file in a new process. Programs whose imports
are tested need a new interpreter (``run_python``).
"""

import atexit
import functools
import json
import os
import signal
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

_LIBRARIES = ("joblib", "skorch", "sklearn.linear_model", "torch._dynamo", "torchvision", "xxhash")


def run_in_new_process(code: str, *args, timeout: int = 300) -> str:
    """Run code in a process that has imported no module of the package, without network.

    It has one thread, as the tests do.

    Parameters
    ----------
    code : str
    *args
        The rest of ``sys.argv``.
    timeout : int, default=300
        In seconds.

    Returns
    -------
    str
        What it has printed.
    """
    done = _run_in_fork(code, *args, timeout=timeout)
    assert done.returncode == 0, f"exit status {done.returncode}\n{done.stderr}"
    return done.stdout


def command_in_new_process(*arguments, before: str = "") -> subprocess.CompletedProcess:
    """Run a command of the command line in such a process.

    Parameters
    ----------
    *arguments
    before : str, default=""
        Code that runs first.

    Returns
    -------
    CompletedProcess
        With the exit status and what was printed, as text.
    """
    return _run_in_fork(f"{before}\nfrom sktransfer.cli import main\nmain()", *arguments)


def _run_in_fork(code: str, *args, timeout: int = 300) -> subprocess.CompletedProcess:
    server = _server()
    with tempfile.TemporaryDirectory() as folder:
        request = {"code": code, "args": list(map(str, args)), "folder": folder, "timeout": timeout}
        request |= {"environment": dict(os.environ), "cwd": os.getcwd()}
        server.stdin.write(json.dumps(request) + "\n")
        server.stdin.flush()
        status = json.loads(server.stdout.readline())
        printed, errors = ((Path(folder) / name).read_text() for name in ("stdout", "stderr"))
    return subprocess.CompletedProcess(args, status, printed, errors)


@functools.cache
def _server() -> subprocess.Popen:
    root = Path(__file__).resolve().parents[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.new_process"],
        env=os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
        cwd=root,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    atexit.register(server.communicate)  # closes its input, which ends it
    return server


def serve() -> None:
    """Run each program that a line of the input describes in a fork, and print its exit status."""
    from tests.offline import block_network

    for name in _LIBRARIES:
        __import__(name)
    block_network()
    for line in sys.stdin:
        child = os.fork()
        if not child:
            status = 1
            try:
                status = _run(**json.loads(line))
            finally:  # it must not go on as a server
                os._exit(status)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def _run(code: str, args: list, folder: str, timeout: int, environment: dict, cwd: str) -> int:
    signal.alarm(timeout)
    os.chdir(cwd)
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(os.path.join(folder, name), os.O_WRONLY | os.O_CREAT), number)
    os.environ.update(environment)
    sys.argv[1:] = args
    try:
        exec(compile(code, "<new process>", "exec"), sys.modules["__main__"].__dict__)
        return 0
    except SystemExit as stopped:
        return stopped.code if isinstance(stopped.code, int) else int(stopped.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


if __name__ == "__main__":
    serve()

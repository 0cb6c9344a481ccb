"""Fixtures that several test files share."""

import gc
import os
import shutil
import signal
from pathlib import Path

import pandas as pd
import psutil
import pytest
import scipy.linalg  # noqa: F401  (its BLAS must be there to be limited)
import torch
from threadpoolctl import threadpool_limits

from sktransfer.backbones import registry as registry_module
from sktransfer.engines import Engine
from tests.offline import ALLOWED, block_network
from tests.support import DATA, TESTS, give_memory_back, own_registry

# Networks in tests are small, and threads that wait for a busy core cost more than they give.
torch.set_num_threads(1)
threadpool_limits(1, user_api="blas")

_SWEEP = pytest.StashKey[list]()


def pytest_collection_modifyitems(items):
    for item in items:
        if item.get_closest_marker("sweep"):
            item.add_marker(pytest.mark.timeout(0))


def pytest_addoption(parser):
    parser.addoption("--sweep-table", help="file for the table of the sweep, in CSV")


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config):
    """Let a worker that has no more tests take some of another's, unless ``--dist`` is given.

    Each has a part in one piece: what the tests of a file share is made once.
    """
    if getattr(config.option, "numprocesses", None) and config.option.dist == "no":
        config.option.dist = "worksteal"


def pytest_collection_finish():
    """Let the garbage collector pass over what is there before the first test."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(optionalhook=True, wrapper=True)
def pytest_xdist_auto_num_workers(config):
    return min((yield), 8)  # a worker takes about 1 GB


def pytest_configure(config):
    config.stash[_SWEEP] = []
    if os.environ.get("SKTRANSFER_STRICT"):
        ignored = [line for line in config.getini("filterwarnings") if line.startswith("ignore")]
        for line in ("error", *ignored):
            config.addinivalue_line("filterwarnings", line)


def pytest_terminal_summary(terminalreporter, config):
    rows = config.stash[_SWEEP]
    if not rows:
        return
    terminalreporter.section("networks")
    for columns in dict.fromkeys(tuple(row) for row in rows):  # a table for each sweep
        table = pd.DataFrame([row for row in rows if tuple(row) == columns]).set_index("network")
        table = table.drop(columns="unreached", errors="ignore")
        terminalreporter.write_line(table.to_string())
        if "loads" in table:  # networks through the whole chain: how many pass each step
            passed = ~table.astype(str).map(lambda cell: cell.startswith(("no", "refused")))
            counts = ", ".join(f"{n} {column}" for column, n in passed.sum().items())
            terminalreporter.write_line(f"{len(table)} networks: {counts}\n")


@pytest.fixture
def sweep_rows(request):
    """Rows of the table that is printed at the end of the run, one for each network.

    The file is written after each test, so that a sweep can be stopped.
    """
    rows, path = request.config.stash[_SWEEP], request.config.getoption("--sweep-table")
    yield rows
    if path and rows:
        # Several tests may fill in the columns of a network.
        pd.DataFrame(rows).groupby("network", sort=False).first().to_csv(path)


@pytest.fixture
def interrupts():
    """Interrupts raise KeyboardInterrupt, here and in programs that are started.

    A shell lets the programs that it starts in the background ignore them, and a program that ran
    before may have left its own handler.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, signal.default_int_handler if before is None else before)


@pytest.fixture
def counted(monkeypatch):
    """The number of samples that each run of any network has taken, in order."""
    runs = []
    run = Engine.run

    def counting(self, tensors, batch_size):
        tables = run(self, tensors, batch_size)
        runs.append(len(next(iter(tables.values()))))
        return tables

    monkeypatch.setattr(Engine, "run", counting)
    return runs


@pytest.fixture(autouse=True, scope="session")
def no_network():
    """Connections fail, in this process and, to other machines, in every Python that it starts."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        block_network(monkeypatch.setattr)
        monkeypatch.setenv("PYTHONPATH", str(TESTS / "offline_site"), prepend=os.pathsep)
        yield


@pytest.fixture
def loopback(monkeypatch):
    """Connections to servers of this machine are possible in a test."""
    monkeypatch.setitem(ALLOWED, "this machine", True)


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    """Chromium, driven by selenium."""
    webdriver = pytest.importorskip("selenium.webdriver")
    programs = [shutil.which("chromium"), shutil.which("chromedriver")]
    if None in programs:
        pytest.skip("chromium and chromedriver are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = programs[0]
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        f"--user-data-dir={tmp_path_factory.mktemp('chromium')}",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ALLOWED, "this machine", True)  # the driver is a server
        browser = webdriver.Chrome(options, webdriver.ChromeService(programs[1]))
        yield browser
        browser.quit()


@pytest.fixture(autouse=True, scope="session")
def own_home(tmp_path_factory):
    """Tables of word vectors are kept in a folder of the run, not in the user's."""
    before = os.environ.get("SKTRANSFER_HOME")
    os.environ["SKTRANSFER_HOME"] = str(tmp_path_factory.mktemp("home"))
    yield
    os.environ.pop("SKTRANSFER_HOME")
    if before is not None:
        os.environ["SKTRANSFER_HOME"] = before


@pytest.fixture
def use_threads():
    """A function that sets the number of torch's threads, for one test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def forget_backbones(monkeypatch):
    """No backbone is loaded yet, as in a new process; calling it makes it so again."""
    monkeypatch.setattr(registry_module, "_SHARED", {})
    return lambda: registry_module._SHARED.clear()


@pytest.fixture(autouse=True, scope="module")
def bounded_memory():
    """Forget the networks that a module has loaded once a worker has grown large.

    The libraries that all test files import take 870 MB.
    """
    yield
    if psutil.Process().memory_info().rss > 1100 * 2**20:
        registry_module._SHARED.clear()
        give_memory_back()


@pytest.fixture
def registry():
    """A registry of backbones that a test may change; nothing is loaded yet."""
    with own_registry() as registry:
        yield registry


@pytest.fixture(scope="session")
def photos():
    """The two photographs that ship with scikit-learn: a palace and a flower."""
    from sklearn.datasets import load_sample_images

    return load_sample_images().images


def _folder(name: str) -> Path:
    if not (DATA / name).is_dir():
        pytest.skip(f"no {name} in {DATA}")
    return DATA / name


@pytest.fixture(scope="session")
def imagenet50():
    """Paths of 50 ImageNet photographs; each name begins with the WordNet id."""
    return sorted(_folder("imagenet50").iterdir())


@pytest.fixture(scope="session")
def hymenoptera():
    """Paths and labels of ants and bees, by part."""
    folder = _folder("hymenoptera")
    paths = {part: sorted((folder / part).glob("*/*")) for part in ("train", "val")}
    return {part: (files, [file.parent.name for file in files]) for part, files in paths.items()}

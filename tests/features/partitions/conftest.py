"""A Dask cluster of two processes of this machine."""

import os

import pytest

from tests.features.partitions.support import close, start_cluster
from tests.offline import ALLOWED
from tests.support import TESTS


@pytest.fixture(scope="package")
def this_machine():
    """Connections to other processes of this machine are possible."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setitem(ALLOWED, "this machine", True)
        monkeypatch.setenv("PYTHONPATH", str(TESTS.parent), prepend=os.pathsep)
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture(scope="package")
def forked(this_machine):
    """Worker processes are forked from one that has imported the package, which takes seconds."""
    dask = pytest.importorskip("dask")
    distributed = pytest.importorskip("distributed")
    with dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"}):
        context = distributed.utils.get_mp_context()
        context.set_forkserver_preload(["distributed", "tests.features.partitions.support"])
        yield


@pytest.fixture(scope="package")
def client(forked, tmp_path_factory):
    client = start_cluster(tmp_path_factory.mktemp("dask"))
    yield client
    close(client)

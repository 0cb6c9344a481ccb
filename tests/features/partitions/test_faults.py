"""Workers and clients that are killed, and two clients: the same bytes in the end."""

import multiprocessing
import os
import random
import signal
import threading
import time

import pytest

from sktransfer import extract_to, load_features
from tests.features.partitions.support import (
    close,
    contents,
    slow_extractor,
    start_cluster,
    vectors,
)

pytest.importorskip("distributed")
pytestmark = [pytest.mark.integration, pytest.mark.sweep]

N = 320  # rows, in 80 partitions of 4
SECONDS = 0.05  # for each partition


def run(folder, **settings):
    made = slow_extractor(seconds=SECONDS)
    return extract_to(folder, made, source=vectors(N), partition_size=4, **settings)


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """The files that a call without an incident writes."""
    folder = tmp_path_factory.mktemp("whole")
    run(folder)
    return contents(folder)


@pytest.fixture
def cluster(forked, tmp_path):
    """A client of two workers that this test may kill."""
    client = start_cluster(tmp_path / "dask")
    yield client
    close(client)


def kill(client, rng: random.Random) -> None:
    """Kill the process of a worker, as the system does if memory is short."""
    workers = client.scheduler_info(n_workers=-1)["workers"]
    processes = client.run(os.getpid, workers=sorted(workers), on_error="ignore")
    if processes:
        os.kill(rng.choice(sorted(processes.values())), signal.SIGKILL)


@pytest.mark.parametrize("seed", range(10))
def test_a_worker_is_killed_at_a_random_moment(seed, cluster, tmp_path, expected):
    rng = random.Random(seed)
    killing = threading.Timer(rng.uniform(0.1, 2.5), kill, (cluster, rng))
    killing.start()
    report = run(tmp_path / "f", executor=cluster)
    killing.join()
    assert report.n_done == N
    assert without_new(tmp_path / "f") == expected


def test_ten_kills_in_one_run(cluster, tmp_path, expected):
    rng, stopped = random.Random(0), threading.Event()

    def kill_often():
        for _ in range(10):
            if not stopped.wait(rng.uniform(0.2, 1.5)):
                kill(cluster, rng)

    killing = threading.Thread(target=kill_often)
    killing.start()
    run(tmp_path / "f", executor=cluster, retries=10)
    stopped.set()
    killing.join()
    assert without_new(tmp_path / "f") == expected


def without_new(folder) -> dict[str, bytes]:
    """The files of a folder without what a killed process has left of one."""
    return {name: file for name, file in contents(folder).items() if not name.startswith(".new-")}


def run_client(folder, address: str) -> None:
    from distributed import Client

    with Client(address, set_as_default=False) as client:
        run(folder, executor=client)


def start_client(folder, client):
    """Start a process that extracts on a cluster."""
    context = multiprocessing.get_context("forkserver")  # the package is imported in it
    process = context.Process(target=run_client, args=(folder, client.scheduler.address))
    process.start()
    return process


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_client_is_stopped_and_started_again(number, cluster, tmp_path, expected, interrupts):
    for n_files in (10, 30):
        started = start_client(tmp_path / "f", cluster)
        while len(list((tmp_path / "f").glob("part-*"))) < n_files:
            time.sleep(0.01)
        os.kill(started.pid, number)
        started.join()
        assert contents(tmp_path / "f").items() <= expected.items()
    assert 100 < len(load_features(tmp_path / "f")[0]) < N
    started = start_client(tmp_path / "f", cluster)
    started.join()
    assert started.exitcode == 0
    assert without_new(tmp_path / "f") == expected


def test_two_clients_write_one_folder(cluster, tmp_path, expected):
    clients = [start_client(tmp_path / "f", cluster) for _ in range(2)]
    for client in clients:
        client.join()
    assert [client.exitcode for client in clients] == [0, 0]
    assert contents(tmp_path / "f") == expected


def test_workers_with_a_resource_do_all(forked, tmp_path):
    """As for GPUs: one of three workers has the resource."""
    from distributed import Client, Nanny, SpecCluster
    from distributed.scheduler import Scheduler

    settings = {
        "nthreads": 1,
        "host": "127.0.0.1",
        "local_directory": str(tmp_path),
        "dashboard": False,
    }
    workers = {
        i: {"cls": Nanny, "options": settings | ({"resources": {"GPU": 1}} if i == 1 else {})}
        for i in range(3)
    }
    scheduler = {"cls": Scheduler, "options": {"dashboard_address": ":0", "host": "127.0.0.1"}}
    with (
        SpecCluster(workers, scheduler) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        client.wait_for_workers(3)
        made = slow_extractor(tmp_path / "log", 0.01)
        extract_to(
            tmp_path / "f",
            made,
            source=vectors(24),
            partition_size=4,
            executor=client,
            resources={"GPU": 1},
        )
        processes = {int(n) for n in (tmp_path / "log").read_text().split()} - {os.getpid()}
        pids = client.run(os.getpid)
        resources = client.scheduler_info(n_workers=-1)["workers"]
        having = {pids[address] for address, w in resources.items() if w["resources"]}
    assert processes == having and len(having) == 1

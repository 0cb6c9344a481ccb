"""Measure a FastAPI service that classifies uploads, compared with the network alone.

The service runs in a process of its own: its endpoint calls `predict_proba([upload.file])` of
one fitted model, for four threads that send photographs. The network alone are four threads of
a further process that decode, preprocess and run the same photographs, without a service. The
probabilities are equal.

    python benchmarks/service.py
    python benchmarks/service.py --quick
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from statistics import median

import anyio.to_thread
import httpx
import numpy as np
import torch
import uvicorn
from _common import Case, hymenoptera, parser, record
from fastapi import FastAPI, UploadFile
from single import bare
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from sktransfer import PretrainedFeatureExtractor

QUICK = {"rounds": 3, "samples": 24}
THREADS = 4


def make_app(model) -> FastAPI:
    """Make a service around a fitted classifier."""

    @asynccontextmanager
    async def limited(app):
        anyio.to_thread.current_default_thread_limiter().total_tokens = THREADS
        yield

    app = FastAPI(lifespan=limited)

    @app.post("/predict")
    def predict(file: UploadFile) -> dict[str, float]:
        (row,) = model.predict_proba([file.file])
        return dict(zip(model.classes_.tolist(), row.tolist(), strict=True))

    return app


def fitted(paths: list[str], y: np.ndarray):
    few = paths[:30] + paths[-30:], np.concatenate([y[:30], y[-30:]])
    extractor = PretrainedFeatureExtractor(n_jobs=None)
    return make_pipeline(extractor, LogisticRegression(max_iter=1000)).fit(*few)


def serve(connection, model, port: int) -> None:
    torch.set_num_threads(1)
    uvicorn.run(make_app(model), host="127.0.0.1", port=port, log_level="warning")


def run_alone(connection, model, port: int) -> None:
    """Run the network on the photographs that arrive, and answer with seconds for each."""
    torch.set_num_threads(1)
    extractor = model[0]
    run = bare(extractor.backbone_, extractor.layers_[0])
    while True:
        contents = connection.recv()
        connection.send(in_threads(lambda content: run(io.BytesIO(content)), contents))


def in_threads(call, items: list) -> tuple[float, list[float], list]:
    """Call a function in four threads; return all seconds, those of each call, and the results."""

    def timed(item):
        start = time.perf_counter()
        found = call(item)
        return time.perf_counter() - start, found

    start = time.perf_counter()
    with ThreadPoolExecutor(THREADS) as pool:
        done = list(pool.map(timed, items))
    seconds = time.perf_counter() - start
    return seconds, [t for t, _ in done], [f for _, f in done if isinstance(f, dict)]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def wait_for(client: httpx.Client) -> None:
    for _ in range(300):
        try:
            client.get("/docs")
            return
        except httpx.TransportError:
            time.sleep(0.2)
    raise RuntimeError("the service did not start")


def measure(args: argparse.Namespace) -> list[Case]:
    paths, y = hymenoptera(args.data, "train")
    model, rng = fitted(paths, y), np.random.default_rng(0)
    contents = [open(paths[i], "rb").read() for i in rng.permutation(len(paths))[: args.samples]]
    port, context = free_port(), multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    processes = [context.Process(target=f, args=(there, model, port)) for f in (serve, run_alone)]
    for process in processes:
        process.start()
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            wait_for(client)
            return compare(client, here, model, contents, args.rounds)
    finally:
        for process in processes:
            process.terminate()
            process.join()


def compare(client: httpx.Client, alone, model, contents: list[bytes], rounds: int) -> list[Case]:
    def upload(content: bytes) -> dict[str, float]:
        return client.post("/predict", files={"file": content}).raise_for_status().json()

    def network() -> tuple[float, list[float], list]:
        alone.send(contents)
        return alone.recv()

    *_, answers = in_threads(upload, contents)
    found = np.array([[answer[name] for name in model.classes_] for answer in answers])
    largest = np.abs(found - model.predict_proba(contents)).max()
    assert largest < 1e-5, largest
    network()
    names = ("the network alone", "the service")
    rates: dict[str, list[float]] = {name: [] for name in names}
    latency: dict[str, list[float]] = {name: [] for name in names}
    slow: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(rounds):
        for name, run in zip(names, (network, lambda: in_threads(upload, contents)), strict=True):
            seconds, times, _ = run()
            rates[name].append(len(contents) / seconds)
            latency[name].append(1e3 * median(times))
            slow[name].append(1e3 * float(np.quantile(times, 0.95)))
    note = f"{len(contents)} uploads, four threads; probabilities equal to {largest:.0e}"
    return [
        Case("uploads", "images/s", rates, names[0], {names[1]: 0.9}, note),
        Case("latency, median", "ms", latency, names[0], {names[1]: 1.1}, note),
        Case("latency, 95 %", "ms", slow, names[0], {names[1]: 1.2}, note),
    ]


def main() -> None:
    args = parsed()
    record(__file__, args, measure(args))


def parsed() -> argparse.Namespace:
    made = parser(__doc__, rounds=7, quick=QUICK)
    made.add_argument("--samples", type=int, default=96, help="photographs in a round")
    return made.parse_args()


if __name__ == "__main__":
    main()

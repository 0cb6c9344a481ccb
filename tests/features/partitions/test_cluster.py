"""Extraction on a Dask cluster of two processes of this machine; none of them is killed."""

import os
import resource
import warnings

import joblib
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.pipeline import make_pipeline

from sktransfer import (
    FineTunedClassifier,
    PretrainedFeatureExtractor,
    UnreadableSamplesError,
    extract_to,
    load_features,
)
from sktransfer.features.partitions import run as running
from tests.features.partitions.support import (
    LABELS,
    N,
    Threads,
    close,
    contents,
    extractor,
    slow_extractor,
    start_cluster,
    vectors,
    write_files,
    write_parquet,
)
from tests.support import images, tiny_backbone

pytest.importorskip("distributed")
pytestmark = pytest.mark.integration


def run(folder, source, made=None, **settings):
    made = extractor() if made is None else made
    return extract_to(folder, made, source=source, **{"partition_size": 2} | settings)


@pytest.mark.slow
def test_a_cluster_writes_the_same_bytes_as_one_process(client, tmp_path):
    write_files(tmp_path / "x")
    source = write_parquet(tmp_path / "t.parquet", [f"x/{i:04d}.png" for i in range(N)], "path")
    run(tmp_path / "one", source, keep="label")
    report = run(tmp_path / "many", source, keep="label", executor=client)
    assert report.n_done == N
    assert contents(tmp_path / "many") == contents(tmp_path / "one")
    assert run(tmp_path / "many", source, keep="label", executor=client).n_new == 0


@pytest.mark.slow
def test_an_own_network_is_sent_to_each_worker_once(client, tmp_path):
    made = slow_extractor(tmp_path / "log", 0.01)
    run(tmp_path / "f", vectors(24), made, executor=client)
    processes = [int(n) for n in (tmp_path / "log").read_text().split()]
    assert sorted(set(processes) - {os.getpid()}) == sorted(client.run(os.getpid).values())
    assert len(processes) == len(set(processes))
    run(tmp_path / "one", vectors(24), made)
    assert contents(tmp_path / "f") == contents(tmp_path / "one")


def test_unreadable_samples_of_a_worker_have_rows_of_the_source(client, tmp_path):
    X = [*images(4), "nowhere.png", *images(2)]
    report = run(tmp_path / "f", X, executor=client)
    assert report.failed["row"].to_pylist() == [4]
    with pytest.raises(UnreadableSamplesError, match=r"sample 4, 'nowhere\.png'"):
        run(tmp_path / "g", X, executor=client, on_error="raise")


def limit_files(n_bytes: int) -> None:
    """Let no file of this process grow above a size, as on a full disk."""
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes if n_bytes else most, most))


@pytest.mark.slow
def test_what_a_worker_with_a_full_disk_cannot_write_another_one_writes(client, tmp_path):
    full = sorted(client.nthreads())[0]
    client.run(limit_files, 500, workers=[full])
    try:
        assert run(tmp_path / "f", vectors(24), slow_extractor(), executor=client).n_done == 24
    finally:
        client.run(limit_files, 0, workers=[full])
    run(tmp_path / "one", vectors(24), slow_extractor())
    assert contents(tmp_path / "f") == contents(tmp_path / "one")


def test_a_task_has_the_threads_of_its_worker(client, tmp_path):
    made = PretrainedFeatureExtractor(Threads())
    run(tmp_path / "f", vectors(2), made, executor=client)
    assert load_features(tmp_path / "f")[0].tolist() == [[1], [1]]


@pytest.mark.parametrize(
    "resources", [None, pytest.param({"GPU": 1}, marks=pytest.mark.sweep)], ids=str
)
def test_a_cluster_without_a_worker_is_awaited_with_a_warning(
    resources, forked, tmp_path, monkeypatch
):
    monkeypatch.setattr(running, "NO_WORKER_SECONDS", 0.5)
    client = start_cluster(tmp_path / "dask", n_workers=0 if resources is None else 1)
    messages = []

    def start_workers(message, *args):
        messages.append(str(message))
        client.cluster.new_spec["options"]["resources"] = resources
        client.cluster.scale(2)

    monkeypatch.setattr(warnings, "showwarning", start_workers)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", UserWarning)
            monkeypatch.setattr(warnings, "showwarning", start_workers)
            run(tmp_path / "f", images(N), executor=client, resources=resources)
    finally:
        close(client)
    assert len(load_features(tmp_path / "f")[0]) == N
    kind = " with the resources {'GPU': 1}" if resources else ""
    (message,) = messages
    assert f"has no worker{kind}. extract_to waits until one starts" in message


@pytest.fixture
def on_cluster(client):
    """Within the test, joblib runs its tasks on the cluster."""
    with joblib.parallel_config("dask", client=client):
        yield


def test_candidates_of_a_search_run_on_workers_with_features_of_partitions(
    on_cluster, client, tmp_path
):
    paths = write_files(tmp_path / "x")
    made = extractor(layer=["0", None])
    run(tmp_path / "f", paths, made, executor=client)
    model = make_pipeline(extractor(memory=tmp_path / "f"), LogisticRegression())
    grid = {"pretrainedfeatureextractor__layer": ["0", None], "logisticregression__C": [1, 10]}
    search = GridSearchCV(model, grid, cv=2, refit=False).fit(paths, LABELS)
    assert not (tmp_path / "f" / "features.blocks").exists()  # nothing was computed
    with joblib.parallel_config("sequential"):
        alone = GridSearchCV(model, grid, cv=2, refit=False).fit(paths, LABELS)
    np.testing.assert_array_equal(
        search.cv_results_["mean_test_score"], alone.cv_results_["mean_test_score"]
    )


@pytest.mark.sweep
def test_networks_of_a_search_are_trained_on_workers(on_cluster, tmp_path):
    model = FineTunedClassifier(
        tiny_backbone(), trainable="head", max_epochs=1, memory=tmp_path / "store", random_state=0
    )
    search = GridSearchCV(model, {"lr": [1e-3, 1e-1]}, cv=2).fit(images(N), LABELS)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert search.best_estimator_.predict(images(2)).shape == (2,)


@pytest.mark.sweep
def test_cross_validation_on_workers_is_that_of_one_process(on_cluster, client, tmp_path):
    paths = write_files(tmp_path / "x")
    run(tmp_path / "f", paths, executor=client)
    model = make_pipeline(extractor(memory=tmp_path / "f"), LogisticRegression())
    settings = {"cv": 2, "scoring": ["accuracy", "neg_log_loss"], "error_score": "raise"}
    many = cross_validate(model, paths, LABELS, **settings)
    with joblib.parallel_config("sequential"):
        one = cross_validate(model, paths, LABELS, **settings)
    np.testing.assert_array_equal(many["test_accuracy"], one["test_accuracy"])
    np.testing.assert_allclose(many["test_neg_log_loss"], one["test_neg_log_loss"], rtol=1e-6)


@pytest.mark.sweep
def test_networks_are_trained_on_workers_from_activations_of_partitions(
    on_cluster, client, tmp_path
):
    """The candidates share the cut: the frozen stages run in the extraction only."""
    paths = write_files(tmp_path / "x")
    settings = {"trainable": "1", "max_epochs": 1, "random_state": 0, "lr": 1e-3}
    plain = FineTunedClassifier(tiny_backbone(), **settings).fit(paths, LABELS)
    made = extractor(layer=plain.frozen_layers_[-1], pooling="flatten")
    run(tmp_path / "f", paths, made, executor=client)
    model = FineTunedClassifier(tiny_backbone(), memory=tmp_path / "f", **settings)
    search = GridSearchCV(model, {"lr": [1e-3, 1e-2]}, cv=2, refit=False).fit(paths, LABELS)
    assert not (tmp_path / "f" / "features.blocks").exists()  # nothing was computed
    with joblib.parallel_config("sequential"):
        alone = GridSearchCV(model, {"lr": [1e-3, 1e-2]}, cv=2, refit=False).fit(paths, LABELS)
    np.testing.assert_array_equal(
        search.cv_results_["mean_test_score"], alone.cv_results_["mean_test_score"]
    )


@pytest.mark.sweep
def test_the_command_line_connects_to_a_scheduler(client, tmp_path):
    run_command = pytest.importorskip("tests.cli.test_app").run
    paths = write_files(tmp_path / "x")
    options = ["--image-size", 32, "--partition-size", 4, "--layer", "stem"]
    address = client.scheduler.address
    run_command("extract", tmp_path / "x", tmp_path / "f", *options, "--scheduler", address)
    run_command("extract", tmp_path / "x", tmp_path / "g", *options)
    assert contents(tmp_path / "f") == contents(tmp_path / "g")
    assert len(load_features(tmp_path / "f")[0]) == len(paths)

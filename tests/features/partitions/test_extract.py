"""What a folder of features holds after calls that end, fail and are interrupted."""

import concurrent.futures
import itertools
import multiprocessing
import os
import pickle
import sys
import time
from pathlib import Path

import fsspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from sktransfer import (
    PretrainedFeatureExtractor,
    UnreadableSamplesError,
    extract_to,
    iter_features,
    load_features,
)
from sktransfer.features import FeatureFunction
from sktransfer.features.partitions import ExtractionError
from sktransfer.features.partitions.folder import Folder
from sktransfer.features.partitions.run import SENT_ONCE
from tests.features.conftest import mount, unmount
from tests.features.partitions.support import (
    LABELS,
    N,
    Threads,
    contents,
    encoded,
    extractor,
    write_files,
    write_parquet,
)
from tests.new_process import run_in_new_process
from tests.support import Vectors, images, tiny_backbone


@pytest.fixture
def source(tmp_path):
    """A table of paths and labels, in Parquet."""
    write_files(tmp_path / "x")
    return write_parquet(tmp_path / "t.parquet", [f"x/{i:04d}.png" for i in range(N)], "path")


def run(folder, source, **settings):
    return extract_to(folder, extractor(), source=source, **{"partition_size": 4} | settings)


# -- what is written -------------------------------------------------------------------------------


def test_partitions_are_tables_that_other_libraries_read(source, tmp_path):
    several = extractor(layer=["0", None])
    extract_to(tmp_path / "f", several, source=source, keep=["label"], partition_size=4)
    names = sorted(path.name for path in (tmp_path / "f").glob("part-*"))
    assert [name[:17] for name in names] == [f"part-{i:012d}" for i in (0, 4, 8)]
    table = pq.read_table(tmp_path / "f" / names[1])
    assert table.column_names == ["row", "digest", "label", *several.fit([images(1)[0]]).layers_]
    assert table["row"].to_pylist() == [4, 5, 6, 7]
    assert pa.types.is_fixed_size_list(table.schema.field("0").type)
    frame = pd.read_parquet(tmp_path / "f")
    assert frame["label"].tolist() == LABELS
    expected = several.transform(images(N))
    np.testing.assert_allclose(np.hstack([np.stack(frame[c]) for c in several.layers_]), expected)
    np.testing.assert_allclose(load_features(tmp_path / "f")[0], expected)


def test_half_precision_is_rounded_single_precision_and_another_recipe(source, tmp_path):
    run(tmp_path / "a", source)
    run(tmp_path / "b", source, dtype="float16")
    X, half = load_features(tmp_path / "a")[0], load_features(tmp_path / "b")[0]
    assert half.dtype == np.float16
    np.testing.assert_array_equal(X.astype(np.float16), half)
    with pytest.raises(ValueError, match="of another recipe"):
        run(tmp_path / "a", source, dtype="float16")


def test_features_that_float16_does_not_hold_are_an_error(tmp_path):
    network = torch.nn.Linear(2, 3, bias=False)
    torch.nn.init.constant_(network.weight, 1e5)
    source = np.ones((3, 2), np.float32)
    large = PretrainedFeatureExtractor(network, layer=-1).fit(source)
    with pytest.raises(ExtractionError, match="too large for float16: use dtype='float32'"):
        extract_to(tmp_path / "f", large, source=source, dtype="float16", retries=0)
    assert extract_to(tmp_path / "g", large, source=source).n_done == 3


def test_features_in_another_place(source):
    run("memory://place/f", source, keep="label")
    X, table = load_features("memory://place/f")
    assert X.shape == (N, 8) and table["label"].to_pylist() == LABELS
    assert run("memory://place/f", source, keep="label").n_new == 0
    assert not [name for name in fsspec.filesystem("memory").ls("/place/f") if ".new" in name]


def test_partitions_one_by_one_are_the_whole(source, tmp_path):
    run(tmp_path / "f", source, keep="label")
    X, table = load_features(tmp_path / "f")
    partitions = list(iter_features(tmp_path / "f"))
    assert [len(rows) for rows, _ in partitions] == [4, 4, 3]
    np.testing.assert_array_equal(np.concatenate([rows for rows, _ in partitions]), X)
    assert pa.concat_tables([rows for _, rows in partitions]) == table


def test_large_results_are_mapped_to_a_file(source, tmp_path, monkeypatch):
    run(tmp_path / "f", source)
    X, _ = load_features(tmp_path / "f")
    monkeypatch.setattr("sktransfer.features.output._IN_MEMORY", 100)
    mapped, _ = load_features(tmp_path / "f")
    assert type(mapped.base).__name__ == "mmap"
    np.testing.assert_array_equal(mapped, X)


def test_a_damaged_partition_is_named(source, tmp_path):
    run(tmp_path / "f", source)
    file = sorted((tmp_path / "f").glob("part-*"))[1]
    content = bytearray(file.read_bytes())
    content[200] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match=rf"{file.name}.* is damaged .* verify=True"):
        load_features(tmp_path / "f")
    file.unlink()
    assert run(tmp_path / "f", source).n_new == 4
    load_features(tmp_path / "f")


@pytest.mark.parametrize("n_bytes", [0, 3, 500, -1])
def test_a_truncated_partition_is_named_and_computed_again_on_request(n_bytes, source, tmp_path):
    run(tmp_path / "f", source)
    before = contents(tmp_path / "f")
    file = sorted((tmp_path / "f").glob("part-*"))[1]
    file.write_bytes(file.read_bytes()[:n_bytes])
    if n_bytes:
        for read in (load_features, lambda folder: list(iter_features(folder))):
            with pytest.raises(ValueError, match=rf"{file.name}.* is damaged .* verify=True"):
                read(tmp_path / "f")
        assert run(tmp_path / "f", source).n_new == 0
    assert run(tmp_path / "f", source, verify=True).n_new == 4
    assert contents(tmp_path / "f") == before
    assert run(tmp_path / "f", source, verify=True).n_new == 0


def test_an_empty_partition_is_computed_again(source, tmp_path):
    run(tmp_path / "f", source)
    before = contents(tmp_path / "f")
    sorted((tmp_path / "f").glob("part-*"))[1].write_bytes(b"")
    report = run(tmp_path / "f", source)
    assert (report.n_done, report.n_new) == (N, 4)
    assert contents(tmp_path / "f") == before
    assert len(load_features(tmp_path / "f")[0]) == N


def test_damaged_files_of_failures_are_written_again_on_request(damaged, tmp_path):
    run(tmp_path / "f", damaged)
    before = contents(tmp_path / "f")
    path = next((tmp_path / "f").glob("failed-*"))
    path.write_bytes(before[path.name][:100])
    with pytest.raises(ValueError, match=rf"{path.name}.* is damaged .* verify=True"):
        run(tmp_path / "f", damaged)
    assert run(tmp_path / "f", damaged, verify=True).n_failed == 3
    assert contents(tmp_path / "f") == before


def test_a_partition_under_the_name_of_another_is_not_read_twice(source, tmp_path):
    run(tmp_path / "f", source)
    before = contents(tmp_path / "f")
    first, second, _ = sorted((tmp_path / "f").glob("part-*"))
    second.write_bytes(first.read_bytes())
    for read in (load_features, lambda folder: list(iter_features(folder))):
        with pytest.raises(ValueError, match=rf"{second.name}.* is a copy of .* row 0"):
            read(tmp_path / "f")
    assert run(tmp_path / "f", source, verify=True).n_new == 4
    assert contents(tmp_path / "f") == before


def test_rows_that_are_there_twice_are_an_error_until_the_next_call(source, tmp_path):
    """A call was killed after it had written changed rows, and before it removed the old ones."""
    run(tmp_path / "f", source)
    before = contents(tmp_path / "f")
    first = sorted((tmp_path / "f").glob("part-*"))[0]
    changed = tmp_path / "x" / "0000.png"
    stamp = changed.stat()
    os.utime(changed, ns=(1, 1))
    run(tmp_path / "f", source)
    first.write_bytes(before[first.name])
    with pytest.raises(ValueError, match="two files with the same rows"):
        load_features(tmp_path / "f")
    os.utime(changed, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    run(tmp_path / "f", source)
    assert contents(tmp_path / "f") == before


def test_a_folder_without_features_is_an_error(tmp_path):
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(FileNotFoundError, match="no features in"):
            load_features(folder)


# -- going on --------------------------------------------------------------------------------------


def test_what_exists_is_not_computed_again(source, tmp_path, counted):
    assert run(tmp_path / "f", source).n_new == N
    before = contents(tmp_path / "f")
    next(iter((tmp_path / "f").glob("part-000000000004*"))).unlink()
    counted.clear()
    report = run(tmp_path / "f", source)
    assert (report.n_done, report.n_new, sum(counted)) == (N, 4, 4)
    assert contents(tmp_path / "f") == before


def test_another_recipe_or_size_is_refused(source, tmp_path):
    run(tmp_path / "f", source)
    before = contents(tmp_path / "f")
    others = [extractor(layer="0"), extractor(pooling="max"), extractor(precision="bfloat16")]
    others.append(PretrainedFeatureExtractor(tiny_backbone(seed=1)))
    for other in others:
        with pytest.raises(ValueError, match="of another recipe"):
            extract_to(tmp_path / "f", other, source=source, partition_size=4)
    with pytest.raises(ValueError, match="begun with partition_size=4, not 5"):
        run(tmp_path / "f", source, partition_size=5)
    assert contents(tmp_path / "f") == before
    # What does not decide the features is no other recipe.
    same = extractor(batch_size=2, n_jobs=2, memory=tmp_path / "store")
    assert extract_to(tmp_path / "f", same, source=source, partition_size=4).n_new == 0


FACTOR = 1


def scaled(x):
    return x.flatten(1) * globals()["FACTOR"]  # which no description of the code shows


def test_features_of_other_code_are_not_mixed(source, tmp_path, monkeypatch):
    model = PretrainedFeatureExtractor(tiny_backbone(), pooling=scaled)
    extract_to(tmp_path / "f", model, source=source, partition_size=4)
    before = contents(tmp_path / "f")
    next(iter((tmp_path / "f").glob("part-000000000004*"))).unlink()
    monkeypatch.setitem(globals(), "FACTOR", 2)
    with pytest.raises(ValueError, match="code that it uses"):
        extract_to(tmp_path / "f", model, source=source, partition_size=4)
    monkeypatch.undo()
    assert extract_to(tmp_path / "f", model, source=source, partition_size=4).n_new == 4
    assert contents(tmp_path / "f") == before


def test_rows_that_have_changed_are_computed_again(source, tmp_path):
    run(tmp_path / "f", source)
    X, _ = load_features(tmp_path / "f")
    changed = tmp_path / "x" / "0005.png"
    changed.write_bytes(encoded(1, seed=9)[0])
    os.utime(changed, ns=(1, 1))
    assert run(tmp_path / "f", source).n_new == 4
    Z, table = load_features(tmp_path / "f")
    assert table["row"].to_pylist() == list(range(N))
    assert np.flatnonzero((X != Z).any(axis=1)).tolist() == [5]


def test_rows_that_are_gone_have_no_file(source, tmp_path):
    run(tmp_path / "f", source)
    table = pq.read_table(source)
    pq.write_table(table.slice(0, 6), source)
    before = contents(tmp_path / "f")
    with pytest.raises(
        ValueError, match=r"source has 6 rows, and the partition 'part-000000000008-"
    ):
        run(tmp_path / "f", source)
    assert contents(tmp_path / "f") == before
    report = run(tmp_path / "f", source, replace=True)
    assert (report.n_rows, report.n_new) == (6, 2)
    assert len(load_features(tmp_path / "f")[0]) == 6
    pq.write_table(pa.concat_tables([table, table]), source)
    assert run(tmp_path / "f", source).n_new == 2 * N - 4
    assert len(load_features(tmp_path / "f")[0]) == 2 * N


def no_rows():
    return []


def no_rows_of_a_generator():
    return iter([])


def other_images():
    return images(N, seed=5)


def other_images_of_a_generator():
    return ([image] for image in images(N, seed=5))


def fewer_images_of_a_generator():
    return (images(N)[i : i + 1] for i in range(6))


OTHERS = {
    no_rows: 0,
    no_rows_of_a_generator: 0,
    other_images: N,
    other_images_of_a_generator: N,
    fewer_images_of_a_generator: 6,
}


@pytest.mark.parametrize(("other", "n_rows"), OTHERS.items(), ids=[o.__name__ for o in OTHERS])
def test_another_source_removes_nothing_unless_that_is_meant(other, n_rows, tmp_path):
    fitted = extractor().fit(images(1))
    extract_to(tmp_path / "f", fitted, source=images(N), partition_size=4)
    before = contents(tmp_path / "f")
    with pytest.raises(ValueError, match=r"part.* would be (lost|replaced).*replace=True"):
        extract_to(tmp_path / "f", fitted, source=other(), partition_size=4)
    kept = contents(tmp_path / "f")
    assert len(before.keys() - kept.keys()) == (other is fewer_images_of_a_generator)  # shorter now
    report = extract_to(tmp_path / "f", fitted, source=other(), partition_size=4, replace=True)
    assert report.n_done == report.n_rows == n_rows
    assert not contents(tmp_path / "f").keys() >= before.keys()


@pytest.mark.slow
def test_a_source_that_has_grown_is_known_again(tmp_path):
    X = images(N)
    for n in (2, 3, 7, N):
        run(tmp_path / "f", X[:n])
        assert len(load_features(tmp_path / "f")[0]) == n
    run(tmp_path / "g", X)
    assert contents(tmp_path / "f") == contents(tmp_path / "g")


def test_a_source_of_one_partition_is_known_again_if_some_rows_have_changed(tmp_path):
    X = images(3)
    run(tmp_path / "f", X)
    assert run(tmp_path / "f", [X[0], *images(2, seed=5)]).n_new == 3


def test_other_columns_are_kept_on_request(source, tmp_path):
    run(tmp_path / "f", source, keep="label")
    with pytest.raises(ValueError, match=r"3 partitions, the first of them .* would be replaced"):
        run(tmp_path / "f", source, keep=["label", "id"])
    assert run(tmp_path / "f", source, keep=["label", "id"], replace=True).n_new == N
    assert load_features(tmp_path / "f")[1].column_names == ["row", "label", "id"]


def test_an_interrupted_call_leaves_whole_partitions_only(source, tmp_path, monkeypatch):
    run(tmp_path / "whole", source)
    write = pq.write_table

    def interrupted(table, file, **settings):
        file.write(b"half")
        if table["row"][0].as_py() == 4:
            raise KeyboardInterrupt
        file.seek(0)
        write(table, file, **settings)

    monkeypatch.setattr(pq, "write_table", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "f", source)
    monkeypatch.undo()
    whole = contents(tmp_path / "whole")
    assert contents(tmp_path / "f").items() < whole.items()
    run(tmp_path / "f", source)
    assert contents(tmp_path / "f") == whole


def test_what_a_killed_process_left_is_removed_after_a_day(source, tmp_path):
    (tmp_path / "f").mkdir()
    old, new = tmp_path / "f" / ".new-1", tmp_path / "f" / ".new-2"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 1e5,) * 2)
    run(tmp_path / "f", source)
    assert new.exists() and not old.exists()
    assert len(load_features(tmp_path / "f")[0]) == N


# -- failures --------------------------------------------------------------------------------------


@pytest.fixture
def damaged(source, tmp_path):
    for i in (2, 5, 6):
        (tmp_path / "x" / f"{i:04d}.png").write_bytes(b"")
    return source


def test_samples_that_fail_are_recorded(damaged, tmp_path):
    report = run(tmp_path / "f", damaged, keep="id")
    assert (report.n_rows, report.n_done, report.n_failed) == (N, N - 3, 3)
    assert report.failed["row"].to_pylist() == [2, 5, 6]
    assert report.failed["sample"][0].as_py().endswith("0002.png")
    assert "not an image (0 bytes)" in report.failed["cause"][0].as_py()
    X, table = load_features(tmp_path / "f")
    good = [i for i in range(N) if i not in (2, 5, 6)]
    assert table["row"].to_pylist() == table["id"].to_pylist() == good
    np.testing.assert_allclose(X, extractor().fit_transform([images(N)[i] for i in good]), 1e-5)


def test_samples_that_fail_are_tried_again_on_request(damaged, tmp_path):
    run(tmp_path / "f", damaged)
    assert run(tmp_path / "f", damaged).n_new == 0
    report = run(tmp_path / "f", damaged, retry_failed=True)
    assert (report.n_new, report.n_failed) == (8, 3)
    path = tmp_path / "x" / "0002.png"
    stamp = path.stat()
    path.write_bytes(encoded(3)[2])
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    report = run(tmp_path / "f", damaged, retry_failed=True)
    assert report.failed["row"].to_pylist() == [5, 6]


def test_a_cause_that_is_gone_leaves_no_failure(tmp_path, monkeypatch):
    source = ["memory://later/1.png", "memory://later/2.png"]
    system = fsspec.filesystem("memory")
    system.pipe("/later/1.png", encoded(1)[0])
    assert run(tmp_path / "f", source).n_failed == 1
    system.pipe("/later/2.png", encoded(2)[1])
    assert run(tmp_path / "f", source).n_failed == 1
    assert run(tmp_path / "f", source, retry_failed=True).n_failed == 0
    assert not list((tmp_path / "f").glob("failed-*"))
    assert len(load_features(tmp_path / "f")[0]) == 2


def test_on_error_raise_names_the_rows_of_the_source(damaged, tmp_path):
    with pytest.raises(UnreadableSamplesError, match=r"sample 5, .*0005\.png"):
        run(
            tmp_path / "f",
            [str(tmp_path / "x" / f"{i:04d}.png") for i in (0, 1, 3, 4, 7, 5)],
            on_error="raise",
            partition_size=5,
        )
    assert len(load_features(tmp_path / "f")[0]) == 5


def test_all_samples_of_a_partition_fail(tmp_path):
    X = [*images(4), None, b"", "nowhere.png", np.full((3, 3, 3), np.nan)]
    report = run(tmp_path / "f", X)
    assert (report.n_done, report.n_failed) == (4, 4)
    assert len(load_features(tmp_path / "f")[0]) == 4


def test_features_that_are_not_finite_are_failures(tmp_path):
    X = np.ones((3, 5), np.float32)
    X[1] = 3e38
    network = torch.nn.Linear(5, 2)
    torch.nn.init.constant_(network.weight, 10.0)
    report = extract_to(tmp_path / "f", PretrainedFeatureExtractor(network), source=X)
    assert "NaN or infinity" in report.failed["cause"][0].as_py()
    X, table = load_features(tmp_path / "f")
    assert table["row"].to_pylist() == [0, 2]


@pytest.mark.slow
def test_a_full_disk_is_an_error_and_leaves_whole_partitions(source, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount("-t", "tmpfs", "-o", "size=12k", "tmpfs", disk)
    try:
        with pytest.raises(ExtractionError, match="No space left") as raised:
            run(disk, source, retries=1)
        assert isinstance(raised.value.__cause__, OSError)
        assert not list(disk.glob(".new-*"))
        mount("-o", "remount,size=1m", disk)
        assert run(disk, source).n_done == N
        run(tmp_path / "f", source)
        assert contents(disk) == contents(tmp_path / "f")
    finally:
        unmount(disk)


NO_ANSWER = OSError("the storage does not answer")


def failing(monkeypatch, n_times: int, error: BaseException = NO_ANSWER) -> list:
    """Let the first files fail to be written; return the first rows of all that began."""
    begun: list = []
    write = pq.write_table

    def fail_first(table, file, **settings):
        begun.append(table["row"][0].as_py())
        if len(begun) <= n_times:
            raise error
        write(table, file, **settings)

    monkeypatch.setattr(pq, "write_table", fail_first)
    return begun


def test_a_partition_is_tried_again(source, tmp_path, monkeypatch):
    begun = failing(monkeypatch, 2)
    assert run(tmp_path / "f", source).n_done == N
    assert begun == [0, 0, 0, 4, 8]


def test_a_partition_that_fails_again_stops_no_other(source, tmp_path, monkeypatch):
    begun = failing(monkeypatch, 2)
    with pytest.raises(ExtractionError, match=r"1 partitions .* rows 0 to 3: the storage"):
        run(tmp_path / "f", source, retries=1)
    assert begun == [0, 0, 4, 8]
    assert run(tmp_path / "f", source).n_new == 4


def test_many_failures_end_the_call(tmp_path, monkeypatch):
    begun = failing(monkeypatch, 100)
    with pytest.raises(ExtractionError, match="8 partitions"):
        run(tmp_path / "f", images(N), retries=0, partition_size=1)
    assert len(begun) == 8


@pytest.mark.parametrize(
    "setting",
    [
        {"partition_size": 0},
        {"partition_size": True},
        {"retries": -1},
        {"on_error": "nan"},
        {"dtype": "int8"},
        {"executor": 3},
        {"resources": {"GPU": 1}},
    ],
)
def test_wrong_parameters_are_named(setting, source, tmp_path):
    with pytest.raises((ValueError, TypeError), match=next(iter(setting))):
        run(tmp_path / "f", source, **setting)
    assert not (tmp_path / "f").exists()


def test_extractors_that_learn_must_be_fitted(source, tmp_path):
    with pytest.raises(ValueError, match="fit it to some"):
        extract_to(tmp_path / "f", extractor(layer="auto"), source=source)
    fitted = extractor(layer="auto").fit(images(12), ["a", "b"] * 6)
    assert extract_to(tmp_path / "f", fitted, source=source).n_done == N
    components = extractor(n_components=2)
    with pytest.raises(ValueError, match="fit it to some"):
        extract_to(tmp_path / "g", components, source=source)
    expected = components.fit(images(12)).transform(images(N))
    extract_to(tmp_path / "g", components, source=source)
    np.testing.assert_allclose(load_features(tmp_path / "g")[0], expected, rtol=1e-4, atol=1e-5)
    two = extractor().fit(pd.DataFrame({"a": ["x.png"], "b": ["y.png"]}))
    with pytest.raises(ValueError, match="fitted to the columns"):
        extract_to(tmp_path / "h", two, source=source)
    with pytest.raises(TypeError, match="PretrainedFeatureExtractor"):
        extract_to(tmp_path / "f", "efficientnet_lite0", source=source)


def test_the_first_sample_may_be_unreadable(tmp_path):
    report = extract_to(tmp_path / "f", extractor(), source=[None, *images(2)])
    assert report.failed["row"].to_pylist() == [0]


# -- executors -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_threads_and_processes_write_the_same_bytes(source, tmp_path):
    run(tmp_path / "one", source, keep="label")
    with concurrent.futures.ThreadPoolExecutor(2) as threads:
        run(tmp_path / "threads", source, keep="label", executor=threads)
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=spawn) as processes:
        run(tmp_path / "processes", source, keep="label", executor=processes)
        made = PretrainedFeatureExtractor(Threads())
        extract_to(tmp_path / "n", made, source=np.ones((1, 3)), executor=processes)
    expected = contents(tmp_path / "one")
    assert contents(tmp_path / "threads") == contents(tmp_path / "processes") == expected
    assert load_features(tmp_path / "n")[0].item() == os.cpu_count()


def test_two_partitions_for_each_worker_are_in_flight(tmp_path):
    taken = itertools.count()
    done: list[int] = []

    class Recording(concurrent.futures.ThreadPoolExecutor):
        def submit(self, function, *args):
            def call():
                result = function(*args)
                done.append(1)
                return result

            ahead.append(next(taken) - len(done))
            return super().submit(call)

    ahead: list[int] = []
    with Recording(2) as executor:
        lists = ([image] for image in images(40))
        assert run(tmp_path / "f", lists, partition_size=1, executor=executor).n_done == 40
    assert max(ahead) < 4


def test_an_interrupt_cancels_what_has_not_begun(tmp_path, monkeypatch):
    begun = failing(monkeypatch, N, SystemExit())  # as an interrupt of the client, no Exception
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        with pytest.raises(SystemExit):
            run(tmp_path / "f", images(N), partition_size=1, executor=executor)
    assert len(begun) < 4


def test_the_number_of_threads_is_put_back(tmp_path, use_threads):
    use_threads(1)
    made = PretrainedFeatureExtractor(Threads())
    extract_to(tmp_path / "f", made, source=np.ones((3, 2)), partition_size=1)
    assert load_features(tmp_path / "f")[0].tolist() == [[1], [1], [1]]
    assert torch.get_num_threads() == 1


class Captured(Exception):
    pass


class Capturing(concurrent.futures.Executor):
    """Keeps what the first worker would be sent."""

    def submit(self, function, /, *args):
        self.sent = function, *args
        raise Captured


def sent_for(tmp_path, extractor, source) -> tuple:
    """Return what is computed on workers, and the first partition."""
    executor = Capturing()
    with pytest.raises(Captured):
        extract_to(tmp_path / "f", extractor, source=source, executor=executor)
    return executor.sent[:2]


@pytest.mark.slow
def test_workers_are_sent_a_name_and_a_fingerprint(tmp_path):
    """4096 rows of a table, and a network of 17 MB, take a few kilobytes."""
    names = [f"{i:06d}-{'x' * 80}.png" for i in range(5000)]
    source = str(tmp_path / "t.parquet")
    pq.write_table(pa.table({"path": names}), source)
    work, partition = sent_for(tmp_path, PretrainedFeatureExtractor(), source)
    assert len(partition) == 4096
    assert len(pickle.dumps((work, partition))) < 20_000
    work, _ = sent_for(tmp_path / "own", extractor(), source)
    assert len(work.function.payload) < 20_000  # a tiny network is sent with each partition
    large = PretrainedFeatureExtractor(torch.nn.Sequential(torch.nn.Linear(100, 100)))
    made = FeatureFunction(large.fit(np.zeros((1, 100), np.float32)))
    assert len(made.payload) > SENT_ONCE  # to each worker of Dask
    assert len(pickle.dumps(made.light())) < 1000


def test_a_new_process_loads_a_network_once_and_says_if_it_has_not_received_one(tmp_path):
    X = np.ones((2, 5), np.float32)
    made = FeatureFunction(PretrainedFeatureExtractor(Vectors()).fit(X))
    (tmp_path / "whole.pkl").write_bytes(pickle.dumps(made))
    (tmp_path / "light.pkl").write_bytes(pickle.dumps(made.light()))
    code = """if True:
        import pickle, sys
        import numpy as np
        from tests.support import Vectors

        loads, X = [], np.ones((2, 5), np.float32)
        set_state = Vectors.__setstate__
        Vectors.__setstate__ = lambda self, state: loads.append(1) or set_state(self, state)
        whole, light = (open(path, "rb").read() for path in sys.argv[1:])
        try:
            pickle.loads(light)(X)
        except RuntimeError as error:
            print(error)
        pickle.loads(whole)(X)
        first = len(loads)
        pickle.loads(whole)(X), pickle.loads(light)(X)
        assert first and len(loads) == first
    """
    printed = run_in_new_process(code, tmp_path / "whole.pkl", tmp_path / "light.pkl")
    assert "has not received the network" in printed


def test_a_missing_pyarrow_is_named(source, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"pip install 'sktransfer\[dask\]'"):
        run(tmp_path / "f", source)


def test_folders_are_pickled_by_their_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = pickle.loads(pickle.dumps(Folder("f")))
    assert folder.url == str(Path(tmp_path) / "f")
    assert folder.names() == []

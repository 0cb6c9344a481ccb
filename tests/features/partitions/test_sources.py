"""The same features come from every kind of source, in its order."""

import os
from pathlib import Path

import fsspec
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

from sktransfer import PretrainedFeatureExtractor, extract_to, load_backbone, load_features
from tests.features.partitions.support import (
    LABELS,
    N,
    encoded,
    extractor,
    write_files,
    write_parquet,
    write_tar,
    write_zip,
)
from tests.support import Vectors, images

ENCODED = encoded()


@pytest.fixture(scope="module")
def expected():
    return extractor().fit_transform(images(N))


def folder(tmp):
    for path, label in zip(map(Path, write_files(tmp / "x")), LABELS, strict=True):
        (tmp / "x" / label).mkdir(exist_ok=True)
        path.rename(tmp / "x" / label / path.name)
    (tmp / "x" / ".hidden").write_text("no image")
    return str(tmp / "x"), {"keep": "folder"}


def paths(tmp):
    return write_files(tmp / "x"), {}


def parquet_of_paths(tmp):
    write_files(tmp / "photos")
    names = [f"photos/{i:04d}.png" for i in range(N)]  # below the folder of the table
    return write_parquet(tmp / "t.parquet", names, "path", row_group_size=4), {"keep": "label"}


def parquet_of_bytes(tmp):
    file = write_parquet(tmp / "t.parquet", ENCODED, "photo", row_group_size=3)
    return file, {"column": "photo", "keep": ["label", "id"]}


def parquet_of_structs(tmp):
    """As the library datasets writes images."""
    structs = [{"bytes": content, "path": f"{i}.png"} for i, content in enumerate(ENCODED)]
    return write_parquet(tmp / "t.parquet", structs), {"keep": "label"}


def several_parquet_files(tmp):
    for i, start in enumerate(range(0, N, 4)):
        write_parquet(tmp / "many" / f"{i}.parquet", ENCODED[start : start + 4])
    return str(tmp / "many"), {}


def pattern_of_parquet_files(tmp):
    several_parquet_files(tmp)
    return str(tmp / "many" / "*.parquet"), {}


def csv(tmp):
    write_files(tmp / "x")
    table = {"id": range(N), "file": [f"x/{i:04d}.png" for i in range(N)], "label": LABELS}
    pd.DataFrame(table).to_csv(tmp / "t.csv", index=False)
    return tmp / "t.csv", {"keep": "label"}


def zip_archive(tmp):
    return write_zip(tmp / "t.zip", ENCODED), {"keep": "folder"}


def tar_archive(tmp):
    return write_tar(tmp / "t.tar", ENCODED, with_labels=False), {}


def tar_shards(tmp):
    for i, start in enumerate(range(0, N, 5)):
        write_tar(tmp / f"t-{i:02d}.tar", ENCODED[start : start + 5], start)
    return str(tmp / "t-{00..02}.tar"), {"column": "png", "keep": ["cls", "__key__"]}


def frame_of_pandas(tmp):
    return pd.DataFrame({"path": write_files(tmp / "x"), "label": LABELS}), {"keep": "label"}


def frame_of_polars(tmp):
    return pl.DataFrame({"path": write_files(tmp / "x"), "label": LABELS}), {"keep": "label"}


def table_of_pyarrow(tmp):
    return pa.table({"image": ENCODED, "label": LABELS}), {"keep": "label"}


def arrays(tmp):
    return np.stack(images(N)), {}


def iterator_of_lists(tmp):
    X = images(N)
    return (X[i : i + 2] for i in range(0, N, 2)), {}


def iterator_of_tables(tmp):
    frame, settings = frame_of_pandas(tmp)
    return (frame[i : i + 3] for i in range(0, N, 3)), settings


def remote_folder(tmp):
    system = fsspec.filesystem("memory")
    for i, content in enumerate(ENCODED):
        system.pipe(f"/{tmp.name}/{i:04d}.png", content)
    return f"memory://{tmp.name}", {"keep": "path"}


def paths_of_remote_files(tmp):
    remote_folder(tmp)
    return [f"memory://{tmp.name}/{i:04d}.png" for i in range(N)], {}


SOURCES = [
    *(folder, paths, parquet_of_paths, parquet_of_bytes, parquet_of_structs, csv, zip_archive),
    *(several_parquet_files, pattern_of_parquet_files, tar_archive, tar_shards, arrays),
    *(frame_of_pandas, frame_of_polars, table_of_pyarrow, iterator_of_lists, iterator_of_tables),
    *(remote_folder, paths_of_remote_files),
]


@pytest.mark.parametrize("make", SOURCES, ids=lambda make: make.__name__)
def test_every_source_gives_the_features_of_transform_in_its_order(make, tmp_path, expected):
    source, settings = make(tmp_path)
    report = extract_to(tmp_path / "f", extractor(), source=source, partition_size=4, **settings)
    assert (report.n_rows, report.n_done, report.n_failed) == (N, N, 0)
    X, table = load_features(tmp_path / "f")
    by_folder = table.column_names == ["row", "folder"]
    order = np.argsort(LABELS, kind="stable") if make is folder else np.arange(N)
    np.testing.assert_allclose(X, expected[order], rtol=1e-5, atol=1e-6)
    assert table["row"].to_pylist() == list(range(N))
    for name in ("label", "cls", "folder"):
        if name in table.column_names:
            assert table[name].to_pylist() == np.array(LABELS)[order].tolist()
    assert by_folder == (settings == {"keep": "folder"})


@pytest.mark.parametrize("make", [parquet_of_paths, folder, zip_archive, tar_shards, csv, paths])
def test_an_unchanged_source_is_known_again(make, tmp_path):
    source, settings = make(tmp_path)
    for n_new in (N, 0):
        report = extract_to(
            tmp_path / "f", extractor(), source=source, partition_size=4, **settings
        )
        assert (report.n_done, report.n_new) == (N, n_new)


def test_partitions_do_not_depend_on_the_row_groups_of_a_table_of_paths(tmp_path):
    write_files(tmp_path / "x")
    names = [f"x/{i:04d}.png" for i in range(N)]
    for size in (3, 5):
        source = write_parquet(tmp_path / "t.parquet", names, row_group_size=size)
        report = extract_to(tmp_path / "f", extractor(), source=source, partition_size=4)
    assert report.n_new == 0


def test_numbers_that_begin_with_a_zero_stay_text(tmp_path):
    write_files(tmp_path / "x", 3)
    rows = ["x/0000.png,007,7,1.5,", "x/0001.png,8,8,0.5,", "x/0002.png,-9,9,-0.25,010"]
    (tmp_path / "t.csv").write_text("\n".join(["path,label,n,score,code", *rows, ""]))
    keep = ["label", "n", "score", "code"]
    extract_to(tmp_path / "f", extractor(), source=tmp_path / "t.csv", keep=keep)
    _, table = load_features(tmp_path / "f")
    assert table["label"].to_pylist() == ["007", "8", "-9"]
    assert table["n"].to_pylist() == [7, 8, 9]
    assert table["score"].to_pylist() == [1.5, 0.5, -0.25]
    assert table["code"].to_pylist() == ["", "", "010"]


@pytest.mark.parametrize("start", ["", "\ufeff"])
def test_quoted_names_of_columns(start, tmp_path):
    write_files(tmp_path / "x", 1)
    header = '"kind, or ""class""","file\nname"'
    (tmp_path / "t.csv").write_text(f"{start}{header}\nant,x/0000.png\n", encoding="utf-8")
    settings = {"column": "file\nname", "keep": 'kind, or "class"'}
    extract_to(tmp_path / "f", extractor(), source=tmp_path / "t.csv", **settings)
    assert load_features(tmp_path / "f")[1]['kind, or "class"'].to_pylist() == ["ant"]


def test_an_empty_table_is_refused(tmp_path):
    (tmp_path / "t.csv").touch()
    with pytest.raises(ValueError, match=r"t\.csv' is empty"):
        extract_to(tmp_path / "f", extractor(), source=tmp_path / "t.csv")


def test_a_target_inside_its_source_is_not_read(tmp_path):
    write_files(tmp_path / "x")
    (tmp_path / "link").symlink_to(tmp_path / "x", target_is_directory=True)
    for source, n_new in ((tmp_path / "x", N), (tmp_path / "x", 0), (tmp_path / "link", 0)):
        report = extract_to(
            tmp_path / "x" / "a" / "f", extractor(), source=source, partition_size=4
        )
        assert (report.n_rows, report.n_new) == (N, n_new)
    target = tmp_path / "x" / "a" / "f"
    with pytest.raises(ValueError, match="is the source"):
        extract_to(target, extractor(), source=target)


def test_partitions_are_no_tables_of_a_pattern(tmp_path):
    (tmp_path / "f").mkdir()
    write_parquet(tmp_path / "f" / "t.parquet", ENCODED)
    for n_new in (N, 0):
        source = str(tmp_path / "f" / "*.parquet")
        report = extract_to(tmp_path / "f", extractor(), source=source, partition_size=4)
        assert (report.n_rows, report.n_new) == (N, n_new)


def test_texts_in_tables_and_files(tmp_path, registry):
    def ids(text):
        return torch.tensor([1 + ord(letter) % 7 for letter in text])

    embedding = nn.Embedding(8, 3, padding_idx=0)
    backbone = load_backbone(embedding, modality="text", preprocess=ids)
    texts = ["a film", "one more", "://", "/etc/passwd"]  # no names of files
    expected = PretrainedFeatureExtractor(backbone).fit_transform(texts)
    pd.DataFrame({"text": texts}).to_csv(tmp_path / "t.csv", index=False)
    (tmp_path / "x").mkdir()
    for i, text in enumerate(texts):
        (tmp_path / "x" / f"{i}.txt").write_text(text)
    for i, source in enumerate([tmp_path / "t.csv", tmp_path / "x", texts]):
        extract_to(tmp_path / f"f{i}", PretrainedFeatureExtractor(backbone), source=source)
        np.testing.assert_allclose(load_features(tmp_path / f"f{i}")[0], expected, rtol=1e-5)


def test_vectors_in_tables(tmp_path):
    X = np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32)
    made = PretrainedFeatureExtractor(Vectors())
    expected = made.fit_transform(X)
    kinds = pa.list_(pa.float32()), pa.list_(pa.float32(), 5)
    for i, kind in enumerate(kinds):
        pq.write_table(pa.table({"x": pa.array(X.tolist(), kind)}), tmp_path / "t.parquet")
        extract_to(tmp_path / f"f{i}", made, source=tmp_path / "t.parquet", column="x")
        np.testing.assert_allclose(load_features(tmp_path / f"f{i}")[0], expected, rtol=1e-5)
        memory = PretrainedFeatureExtractor(Vectors(), memory=tmp_path / f"f{i}")
        np.testing.assert_array_equal(memory.fit_transform(X), load_features(tmp_path / f"f{i}")[0])


@pytest.mark.parametrize(
    ("source", "settings", "message"),
    [
        (3, {}, "source=3: give a Parquet"),
        ("nowhere.parquet", {}, "does not exist"),
        ("nowhere-*.parquet", {}, "no file has such a name"),
        (["a.png"], {"column": "image"}, "has no columns"),
        (pa.table({"a": ["x"], "b": ["y"]}), {}, "which of the columns"),
        (pa.table({"image": ["x"]}), {"column": "imag"}, r"\['imag'\] are not among"),
        (pa.table({"image": ["x"]}), {"keep": "y"}, r"\['y'\] are not among"),
        (pa.table({"image": ["x"], "row": [1]}), {"keep": "row"}, "rename"),
        ([], {}, "no rows"),
    ],
)
def test_wrong_sources_are_refused(source, settings, message, tmp_path):
    with pytest.raises((ValueError, TypeError, FileNotFoundError), match=message):
        extract_to(tmp_path / "f", extractor(), source=source, **settings)
    assert not os.path.exists(tmp_path / "f")


@pytest.mark.slow
def test_a_compressed_tar_archive_is_refused(tmp_path):
    (tmp_path / "t.tar").write_bytes(b"\x1f\x8b" + bytes(600))
    with pytest.raises(ValueError, match="no tar archive without compression"):
        extract_to(tmp_path / "f", extractor(), source=tmp_path / "t.tar")

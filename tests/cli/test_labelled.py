import json
import re
import shutil
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.frozen import FrozenEstimator

import sktransfer
from sktransfer.cli.labelled import Columns, read_source
from tests.cli.running import run
from tests.selection.support import deeper_backbone, make_table, word_vectors
from tests.support import own_registry, tiny_backbone

pytest.importorskip("skops")


@pytest.fixture
def model(classes, tiny, tmp_path):
    run("train", classes, "-o", tmp_path / "model.skt", "--backbone", tiny)
    return tmp_path / "model.skt"


def test_a_model_is_trained_on_all_samples_after_a_test_on_held_out_ones(classes, tiny, tmp_path):
    path = tmp_path / "model.skt"
    done = run("train", classes, "-o", path, "--backbone", tiny)
    lines = done.stdout.splitlines()
    assert re.fullmatch(r"accuracy [01]\.\d{3} ± 0\.\d{3} on 5 held-out samples", lines[0])
    assert lines[1] == "the weighted mean of"
    assert sum(float(line.split("\t")[0]) for line in lines[3:-1]) == pytest.approx(1, abs=0.03)
    assert lines[-1].startswith(f"saved {path} (")
    assert "Training on 19 samples, 5 are held out." in done.stderr
    assert "Training on all 24 samples." in done.stderr
    assert sktransfer.load(path).classes_.tolist() == ["dark", "light"]


def test_samples_for_testing_that_the_folder_has_are_not_trained_on(classes, tiny, tmp_path):
    (classes / "train").mkdir()
    for name in ("dark", "light"):
        (classes / name).rename(classes / "train" / name)
        (classes / "test" / name).mkdir(parents=True)
        for path in sorted((classes / "train" / name).iterdir())[:3]:
            path.rename(classes / "test" / name / path.name)
    done = run("train", classes, "-o", tmp_path / "m.skt", "--backbone", tiny)
    assert "on 6 held-out samples" in done.stdout
    assert "Training on all" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["features", "head"])
def test_a_strategy_can_be_given(classes, tiny, tmp_path, strategy):
    out = run("train", classes, "-o", tmp_path / "m", "--backbone", tiny, "--strategy", strategy)
    assert f"strategy {strategy}\n" in out.stdout
    assert sktransfer.load(tmp_path / "m").strategy_ == strategy


def test_few_samples_are_all_used_for_training(classes, tiny, tmp_path):
    for name in ("dark", "light"):
        for path in sorted((classes / name).iterdir())[4:]:
            path.unlink()
    done = run("train", classes, "-o", tmp_path / "m.skt", "--backbone", tiny)
    assert "held-out" not in done.stdout


@pytest.mark.filterwarnings("default:Left out")  # it is printed
def test_a_file_that_is_no_image_is_named_and_left_out(classes, tiny, tmp_path):
    (classes / "dark" / "notes.txt").write_text("no image")
    done = run("train", classes, "-o", tmp_path / "m.skt", "--backbone", tiny)
    assert "Warning: Left out: 1 sample could not be read:" in done.stderr
    assert "notes.txt" in done.stderr
    assert "Training on all 24 samples." in done.stderr


def test_numbers_are_predicted_from_a_table(classes, tiny, tmp_path):
    pytest.importorskip("pandas")
    rows = [
        f"{name}/{i:02}.png,{value + i / 8}"
        for name, value in (("dark", 1), ("light", 2))
        for i in range(12)
    ]
    (classes / "table.csv").write_text("\n".join(["path,target", *rows]))
    done = run("train", classes / "table.csv", "-o", tmp_path / "m.skt", "--backbone", tiny)
    assert done.stdout.startswith("mean absolute error ")
    predicted = sktransfer.load(tmp_path / "m.skt").predict([classes / "dark" / "00.png"])
    assert np.isfinite(predicted).all()
    again = run("evaluate", tmp_path / "m.skt", classes / "table.csv", "--json")
    assert json.loads(again.stdout)["name"] == "mean absolute error"


def test_a_place_where_nothing_can_be_written_is_an_error_before_the_work(classes, tmp_path):
    with pytest.raises(ValueError, match="--output"):
        run("train", classes, "-o", tmp_path / "no" / "m.skt", "--backbone", "no such network")


def test_an_evaluation_reports_the_accuracy_and_each_class(model, classes):
    lines = run("evaluate", model, classes).stdout.splitlines()
    assert re.fullmatch(r"accuracy [01]\.\d{3} ± 0\.\d{3} on 24 held-out samples", lines[0])
    assert lines[1] == "class\tsamples\trecall\tprecision"
    assert [line.split("\t")[:2] for line in lines[2:]] == [["dark", "12"], ["light", "12"]]


@pytest.mark.slow
def test_an_evaluation_as_json_is_that_of_the_model(model, classes):
    found = json.loads(run("evaluate", model, classes, "--json").stdout)
    X, y = sktransfer.load_image_folder(classes)
    assert found["value"] == sktransfer.load(model).score(X, y)
    assert found["n"] == 24


def test_a_time_budget_of_numbers_is_an_error(classes, tmp_path):
    pytest.importorskip("pandas")
    (classes / "t.csv").write_text("path,target\ndark/00.png,0.5\ndark/01.png,0.7\n")
    with pytest.raises(ValueError, match="--time-budget"):
        run("train", classes / "t.csv", "-o", tmp_path / "m.skt", "--time-budget", 5)


# a page about data and a model


needs_report = pytest.mark.skipif(
    None in map(find_spec, ("jinja2", "captum", "cleanlab")), reason="needs the extra inspect"
)


@pytest.mark.slow
@needs_report
def test_a_page_about_a_folder_is_written(classes, tiny, tmp_path):
    page = tmp_path / "page.html"
    done = run("report", classes, "-o", page, "--backbone", tiny, "--folds", 2)
    assert done.stdout.startswith("accuracy 1.000 (")
    assert f"wrote {page}" in done.stdout
    assert "Predicting 24 samples in 2 folds." in done.stderr
    text = page.read_text(encoding="utf-8")
    assert "TransferClassifier on tinynet" in text
    assert "24 images" in text


@pytest.mark.slow
@needs_report
def test_a_saved_model_is_judged_on_samples_that_it_has_not_seen(classes, tiny, tmp_path):
    model, page = tmp_path / "own.skt", tmp_path / "page.html"
    run("train", classes, "-o", model, "--backbone", tiny)
    done = run("report", classes, "-o", page, "--model", model, "--held-out")
    assert "Predicting 24 samples as it is." in done.stderr
    text = page.read_text(encoding="utf-8")
    assert "own.skt" in text
    assert "it was not fitted on them" in text


def test_held_out_samples_need_a_model(classes):
    with pytest.raises(ValueError, match="--held-out needs a saved model"):
        run("report", classes, "--held-out")


# sources


@pytest.fixture
def folder(tmp_path):
    """Splits "Train" and "val", with one and two images of each of two classes."""
    for split, n in (("Train", 1), ("val", 2)):
        for name in ("a", "b"):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(n):
                Image.new("RGB", (8, 8)).save(tmp_path / split / name / f"{i}.png")
    return tmp_path


def test_a_folder_with_splits_has_samples_for_training_and_for_testing(folder):
    found = read_source(folder, Columns())
    assert [len(part) for part in (found.X, found.y, found.X_test, found.y_test)] == [2, 2, 4, 4]
    assert {Path(path).parts[-3] for path in found.X} == {"Train"}


def test_an_evaluation_uses_the_split_for_testing(folder):
    found = read_source(folder, Columns(), training=False)
    assert {Path(path).parts[-3] for path in found.X} == {"val"}
    assert found.X_test is None


def test_a_folder_without_splits_has_no_samples_for_testing(folder):
    found = read_source(folder / "val", Columns())
    assert (len(found.X), found.X_test) == (4, None)


def test_texts_come_from_their_column(tmp_path):
    pytest.importorskip("pandas")
    path = tmp_path / "texts.csv"
    path.write_text('review,class\ngood film,1\n"dull, long",0\n', encoding="utf-8")
    found = read_source(path, Columns(text=["review"]))
    assert found.X == ["good film", "dull, long"]
    assert found.y.tolist() == [1, 0]


def test_labels_that_begin_with_a_zero_stay_text(tmp_path):
    pytest.importorskip("pandas")
    path = tmp_path / "t.csv"
    path.write_text("review,image,label\ngood,a.png,001\ndull,b.png,010\n", encoding="utf-8")
    for columns in (Columns(), Columns(text=["review"])):
        assert read_source(path, columns).y.tolist() == ["001", "010"]


def test_images_of_a_table_are_beside_it(tmp_path):
    pytest.importorskip("pandas")
    (tmp_path / "t.csv").write_text("path,label\na.png,x\n", encoding="utf-8")
    found = read_source(tmp_path / "t.csv", Columns())
    assert found.X == [str(tmp_path / "a.png")]
    assert np.asarray(found.y).tolist() == ["x"]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (Columns(text=["words"]), r"--text words: .*\['review', 'k'\]. The first row of a CSV"),
        (Columns(text=["review"], label="q"), "--label q"),
        (Columns(text=["review"]), "no column of labels: give --label"),
    ],
)
def test_a_missing_column_is_an_error_that_names_it(tmp_path, columns, message):
    pytest.importorskip("pandas")
    (tmp_path / "t.csv").write_text("review,k\na,1\n", encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        read_source(tmp_path / "t.csv", columns)


def test_a_source_that_does_not_exist_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_source(tmp_path / "none", Columns())


# several columns


@pytest.fixture
def homes(tmp_path, registry):
    """A table of photographs in files, texts, numbers and categories, and its networks by name."""
    X, bits = make_table(48)
    sktransfer.register_backbone("tiny")(tiny_backbone)
    sktransfer.register_backbone("words", modality="text")(word_vectors)
    (tmp_path / "photos").mkdir()
    names = [f"photos/{i}.png" for i in range(48)]
    for name, image in zip(names, X["photo"], strict=True):
        image.save(tmp_path / name)
    X = X.assign(photo=names, more=range(48), sold=[f"{a}{b}{c}" for a, b, c in bits])
    X.to_csv(tmp_path / "homes.csv", index=False)
    return tmp_path / "homes.csv"


COLUMNS = ("--image", "photo", "--text", "text", "--column", "price", "--column", "colour")


def train_homes(homes, *more):
    path = homes.parent / "homes.skt"
    networks = ("--backbone", "tiny", "--backbone", "words")
    done = run("train", homes, "-o", path, *COLUMNS, "--label", "sold", *networks, *more)
    return path, done


def test_a_model_of_several_columns_is_trained_evaluated_and_inspected(homes):
    path, done = train_homes(homes)
    assert re.match(r"accuracy [01]\.\d{3} ± 0\.\d{3} on 10 held-out samples", done.stdout)
    model = sktransfer.load(path)
    kinds = {"photo": "image", "text": "text", "price": "number", "colour": "category"}
    assert model.column_kinds_ == kinds
    assert model.backbone == {"photo": "tiny", "text": "words"}
    found = json.loads(run("evaluate", path, homes, "--label", "sold", "--json").stdout)
    assert found["n"] == 48 and found["value"] > 0.9
    shown = run("inspect", path).stdout
    assert "columns\tphoto image" in shown and "price number" in shown


@pytest.fixture
def few_homes(homes):
    """Twelve rows of this table, with three classes."""
    import pandas as pd

    pd.read_csv(homes)[:12].assign(sold=["a", "b", "c"] * 4).to_csv(homes, index=False)
    return homes


@pytest.mark.slow
def test_networks_are_given_to_the_columns_that_they_read(few_homes):
    sktransfer.register_backbone("deeper")(deeper_backbone)
    path, _ = train_homes(few_homes, "--backbone", "deeper")
    assert sktransfer.load(path).backbone == {"photo": ["tiny", "deeper"], "text": "words"}
    options = ("--image", "photo", "--column", "price", "--label", "sold", "--backbone", "words")
    with pytest.raises(ValueError, match="--backbone words: no column has texts"):
        run("train", few_homes, "-o", path, *options)


def test_columns_that_do_not_exist_are_named_with_their_option(homes):
    for option in ("--image", "--text", "--column", "--label"):
        with pytest.raises(ValueError, match=f"{option} size: the columns are"):
            run("train", homes, "-o", homes.parent / "m.skt", option, "size")


def test_images_beside_numbers_are_found_by_the_usual_name(homes):
    import pandas as pd

    frame = pd.read_csv(homes).rename(columns={"photo": "file_name", "sold": "label"})
    frame.to_csv(homes, index=False)
    path = homes.parent / "m.skt"
    run("train", homes, "-o", path, "--column", "price", "--backbone", "tiny")
    assert sktransfer.load(path).column_kinds_ == {"file_name": "image", "price": "number"}


@pytest.mark.slow
def test_rows_that_lack_an_image_are_trained_with_the_mean(homes):
    (homes.parent / "photos" / "3.png").write_bytes(b"nothing")
    with pytest.raises(sktransfer.UnreadableSamplesError, match=r"photo.*could not be read"):
        train_homes(homes)
    path, _ = train_homes(homes, "--on-error", "mean")
    assert sktransfer.load(path).on_error == "mean"
    done = run("predict", "-m", path, homes, "--csv")
    assert done.exit_code == 0 and len(done.stdout.splitlines()) == 49


def test_training_names_the_row_of_the_file_that_lacks_a_text(homes):
    import pandas as pd

    X = pd.read_csv(homes)
    X.loc[3, "text"] = None
    X.to_csv(homes, index=False)
    with pytest.raises(sktransfer.UnreadableSamplesError, match=r"sample 3, .*--on-error mean"):
        train_homes(homes)


@pytest.mark.slow
@needs_report
def test_a_page_about_a_table_is_written(few_homes):
    page = few_homes.parent / "page.html"
    networks = ("--backbone", "tiny", "--backbone", "words")
    done = run(
        "report", few_homes, "-o", page, *COLUMNS, "--label", "sold", *networks, "--folds", 2
    )
    assert "accuracy" in done.stdout
    assert "12 rows" in page.read_text(encoding="utf-8")
    path, _ = train_homes(few_homes)
    run("report", few_homes, "-o", page, "--model", path, "--held-out", "--label", "sold")
    assert "it was not fitted on them" in page.read_text(encoding="utf-8")


# columns of a model are read alike from every file


# The label follows from this category.
GARDENS = {"true": "yes", "false": "no", "unknown": "later"}


def train_gardens(table, label):
    columns = ("--text", "text", "--column", "price", "--label", label, "--backbone", "words")
    run("train", table, "-o", table.parent / "m.skt", *columns, "--column", "garden")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a table of texts, numbers and a category, and the file of a model of it."""
    folder = tmp_path_factory.mktemp("gardens")
    garden = list(GARDENS) * 3
    X = make_table(9)[0][["text", "price"]].assign(garden=garden, sold=[*map(GARDENS.get, garden)])
    X.to_csv(folder / "gardens.csv", index=False)
    with own_registry():
        sktransfer.register_backbone("words", modality="text")(word_vectors)
        train_gardens(folder / "gardens.csv", "sold")
    return folder


@pytest.fixture
def gardens(trained, tmp_path, registry):
    """The file of this model, and its table, beside it."""
    import pandas as pd

    sktransfer.register_backbone("words", modality="text")(word_vectors)
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    return tmp_path / "m.skt", pd.read_csv(tmp_path / "gardens.csv", dtype=str)


def accuracy(model, X, label="sold"):
    path = model.parent / "new.csv"
    X.to_csv(path, index=False)
    return json.loads(run("evaluate", model, path, "--label", label, "--json").stdout)["value"]


@pytest.mark.slow
def test_categories_are_those_of_training_whatever_else_is_in_the_file(gardens):
    path, X = gardens
    assert accuracy(path, X) == 1
    assert accuracy(path, X[X["garden"] != "unknown"]) == 1  # pandas reads booleans


def test_booleans_are_the_categories_of_texts_that_mean_them(gardens):
    path, X = gardens
    X = X[X["garden"] != "unknown"]
    assert accuracy(path, X.assign(garden=X["garden"] == "true")) == 1  # as "True" and "False"
    new = path.parent / "new.parquet"
    X.assign(garden=X["garden"] == "true", price=X["price"].astype(float)).to_parquet(new)
    assert json.loads(run("evaluate", path, new, "--label", "sold", "--json").stdout)["value"] == 1


@pytest.mark.slow
def test_a_column_of_lists_is_named(tmp_path):
    pytest.importorskip("pyarrow")
    X = make_table(8)[0][["text"]].assign(tags=[["x", "y"]] * 8, label=["a", "b"] * 4)
    X.to_parquet(tmp_path / "t.parquet")
    options = ("--text", "text", "--column", "tags", "-o", tmp_path / "m.skt")
    with pytest.raises(ValueError, match="Column 'tags' has ndarray objects, which are neither"):
        run("train", tmp_path / "t.parquet", *options)


@pytest.mark.parametrize("missing", [False, True])
def test_booleans_are_numbers_in_every_file(tmp_path, registry, missing):
    pytest.importorskip("pyarrow")
    sktransfer.register_backbone("words", modality="text")(word_vectors)
    X = make_table(8)[0][["text", "price"]].assign(garden=[True, False] * 4)
    X["sold"] = X["garden"].map({True: "yes", False: "no"})
    X["garden"] = X["garden"].astype(object)
    if missing:
        X.iloc[1, 2] = None
    X.to_csv(tmp_path / "t.csv", index=False)
    X.to_parquet(tmp_path / "t.parquet")
    X.to_json(tmp_path / "t.jsonl", orient="records", lines=True)
    predictions = []
    for name in ("t.csv", "t.parquet", "t.jsonl"):
        train_gardens(tmp_path / name, "sold")
        assert sktransfer.load(tmp_path / "m.skt").column_kinds_["garden"] == "number"
        other = "t.csv" if name == "t.parquet" else "t.parquet"
        done = run("predict", "-m", tmp_path / "m.skt", tmp_path / other, "--csv").stdout
        predictions.append(re.sub(r"^.*?:", "", done, flags=re.MULTILINE))
    assert len(set(predictions)) == 1


def test_boolean_labels_are_those_of_a_model_of_texts(gardens):
    path, X = gardens
    X = X[X["garden"] != "unknown"]
    X.to_csv(path.parent / "gardens.csv", index=False)
    run("train", path.parent / "gardens.csv", "-o", path, "--text", "text", "--column", "price",
        "--column", "sold", "--label", "garden", "--backbone", "words")  # fmt: skip
    assert sktransfer.load(path).classes_.tolist() == ["false", "true"]
    X.assign(garden=X["garden"] == "true").to_parquet(path.parent / "new.parquet")
    done = run("evaluate", path, path.parent / "new.parquet", "--label", "garden", "--json")
    assert json.loads(done.stdout)["value"] == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "classes",
    [["true", "false", "unknown"], ["1.50", "2.50", "S"]],
    ids=["not booleans", "not numbers"],  # as which pandas reads the first two alone
)
def test_labels_have_the_type_of_the_classes_of_the_model(classes, gardens):
    path, X = gardens
    X["ok"] = X["garden"].map(dict(zip(GARDENS, classes, strict=True)))
    X.to_csv(path.parent / "gardens.csv", index=False)
    train_gardens(path.parent / "gardens.csv", "ok")
    assert accuracy(path, X[X["garden"] != "unknown"], "ok") == 1
    done = run("evaluate", path, path.parent / "new.csv", "--label", "ok")
    assert f"{classes[0]}\t3\t1.000\t1.000" in done.stdout


@pytest.mark.parametrize(
    ("classes", "cells", "expected"),
    [
        ([False, True], "true false", [True, False]),
        ([1, 2], "01 2", [1, 2]),
        (["01", "2"], "01 2", ["01", "2"]),
        (["1", "2"], "1 2", ["1", "2"]),
        (["false", "true"], "True FALSE other", ["true", "false", "other"]),
        (["False", "True"], "true false", ["True", "False"]),
        (["true", "no"], "True no", ["True", "no"]),
    ],
)
def test_labels_are_converted_to_classes(tmp_path, classes, cells, expected):
    pytest.importorskip("pandas")
    table = tmp_path / "t.csv"
    lines = "".join(f"a text,{cell}\n" for cell in cells.split())
    table.write_text(f"review,label\n{lines}", encoding="utf-8")
    columns = Columns(text=["review"], classes=np.array(classes))
    y = read_source(table, columns).y.tolist()
    assert y == expected and list(map(type, y)) == list(map(type, expected))
    columns = Columns(text=["review"], classes=np.array([1, 2]))
    table.write_text("review,label\na text,1\na text,abc\n", encoding="utf-8")
    with pytest.raises(
        ValueError, match=r"--label label: 'abc' is no number, in row 1, .* \[1, 2\]"
    ):
        read_source(table, columns)


@pytest.mark.filterwarnings("default:No label")  # it is printed
def test_labels_of_other_names_than_the_classes_are_said(gardens):
    path, X = gardens
    X.assign(sold=X["sold"].str.title()).to_csv(path.parent / "new.csv", index=False)
    done = run("evaluate", path, path.parent / "new.csv", "--label", "sold", "--json")
    assert json.loads(done.stdout)["value"] == 0
    message = " ".join(done.stderr.split())
    assert "No label is a class of the model: they are Yes, No, Later, and its cl" in message


def test_an_evaluation_names_the_cell_that_is_no_number(gardens):
    path, X = gardens
    X.loc[7, "price"] = "abc"
    with pytest.raises(ValueError, match="'price' has numbers in fit, and 'abc' in row 7"):
        accuracy(path, X)


def test_a_missing_text_names_the_option_of_train(gardens):
    path, X = gardens
    X.loc[7, "text"] = None
    option = "train the model with --on-error mean, which"
    with pytest.raises(sktransfer.UnreadableSamplesError, match=f"sample 7, .*{option}"):
        accuracy(path, X)
    done = run("predict", "-m", path, path.parent / "new.csv", "--csv")
    assert done.exit_code == 1 and len(done.stdout.splitlines()) == 9
    message = " ".join(done.stderr.split())
    assert f"new.csv:7: column 'text': missing: leave the row out, or {option}" in message


# options that have no effect, or are wrong together


def refused(*arguments):
    done = run(*arguments)
    assert done.exit_code == 2 and done.stdout == ""
    return " ".join(done.stderr.replace("│", " ").split())


@pytest.mark.slow
def test_options_that_the_file_of_a_model_has_are_refused(gardens):
    path, _ = gardens
    table = path.parent / "gardens.csv"
    more = (("--backbone", "x"), ("--memory", "x"), ("--image", "x"), ("--text", "x"))
    for option, value in (*more, ("--column", "x")):
        message = refused("report", table, "--model", path, "--label", "sold", option, value)
        assert f"--model and {option} exclude each other: the file of a model has its" in message
    message = refused("report", table, "--model", path, "--held-out", "--folds", 9)
    assert "--held-out and --folds exclude each other: the model is not fitted again" in message
    for option in ("--text", "--image"):
        message = refused("evaluate", path, table, "--label", "sold", option, "garden")
        assert f"MODEL and {option} exclude each other" in message
    with pytest.raises(ValueError, match="--label price, the model's price: the column is given"):
        run("evaluate", path, table, "--label", "price")
    table.write_text("text,garden,sold\na,true,yes\n")
    with pytest.raises(ValueError, match=r"lacks columns that it had in fit: \['price'\]"):
        run("evaluate", path, table, "--label", "sold")


@pytest.mark.parametrize("second", ["--image", "--text"])
def test_a_model_of_one_column_refuses_several(tmp_path, tiny, second):
    path = tmp_path / "m.skt"
    sktransfer.save(sktransfer.TransferClassifier(tiny), path)
    for command in (("evaluate", path, "t.csv"), ("report", "t.csv", "--model", path)):
        message = refused(*command, "--image", "a", second, "b")
        assert f"the model reads one column, and there are --image a, {second} b." in message
        message = refused(*command, "--image", "a", "--column", "b")
        assert "--column exclude each other: the model reads one column." in message


def test_folds_of_a_frozen_model_are_refused(tmp_path, tiny):
    path = tmp_path / "m.skt"
    sktransfer.save(FrozenEstimator(sktransfer.TransferClassifier(tiny)), path)
    with pytest.raises(ValueError, match=r"m\.skt is frozen, and no fold fits it: give --held-out"):
        run("report", "t.csv", "--model", path)


def test_what_is_done_on_errors_is_a_choice_for_several_columns(few_homes):
    options = ("-o", few_homes.parent / "m.skt", "--text", "text", "--label", "sold")
    assert "'skip' is not one of" in refused("train", few_homes, *options, "--on-error", "skip")
    message = refused("train", few_homes, *options, "--on-error", "mean")
    assert "--on-error mean is for several columns" in message


@pytest.mark.parametrize("command", [("advise",), ("rank", "vgg11")])
def test_commands_for_one_column_refuse_others_and_repeated_ones(command):
    name, *backbones = command
    message = refused(name, "t.csv", *backbones, "--column", "price")
    assert "--column price: one column of images or texts is read" in message
    assert "--image or --text" in message and "sktransfer train" not in message
    with pytest.raises(ValueError, match="--text a, --text a: the column is given twice"):
        run(name, "t.csv", *backbones, "--text", "a", "--text", "a")


def test_the_line_for_several_columns_has_the_given_network():
    message = refused("advise", "t.csv", "--text", "a", "--column", "b", "--backbone", "words")
    assert message.replace(" ", "").rstrip("╯─╰").endswith("--columnb--backbonewords")


@pytest.mark.parametrize("command", [("advise",), ("rank", "vgg11")])
def test_commands_for_one_column_show_the_one_for_several(command):
    name, *backbones = command
    for given in (
        ["--image a", "--text b"],
        ["--image a", "--image b"],
        ["--text a", "--column b"],
    ):
        options = [word for option in given for word in option.split()]
        message = refused(name, "t.csv", *backbones, *options, "--label", "c")
        assert (
            f"and there are {', '.join(given)}. To use them together: sktransfer train" in message
        )
        assert f"train t.csv -o model.skt {' '.join(given)} --label c" in message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--text", "text", "--column", "sold"],
            "--label sold, --column sold: the column is given",
        ),
        (["--text", "text", "--column", "text"], "--text text, --column text: the column is given"),
        (["--text", "text", *["--column", "price"] * 2], "--column price, --column price: the col"),
        (["--column", "price"], "No column of images among .* give .* by --image or --text"),
        (
            ["--text", "text", "--column", "price", "--backbone", "nonsense"],
            "backbone 'nonsense' is not known",
        ),
    ],
)
def test_wrong_columns_and_networks_are_found_before_training(tmp_path, options, message):
    pytest.importorskip("pandas")
    table = tmp_path / "t.csv"
    table.write_text("text,price,sold\na text,1,yes\nno text,2,no\n", encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        run("train", table, "-o", tmp_path / "m.skt", "--label", "sold", *options)

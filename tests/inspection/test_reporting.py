from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression, Ridge, RidgeClassifier
from sklearn.model_selection import FixedThresholdClassifier, GridSearchCV
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.svm import SVC

from sktransfer import (
    FineTunedClassifier,
    FineTunedRegressor,
    PretrainedFeatureExtractor,
    TransferClassifier,
    TransferRegressor,
    load_word_vectors,
    recommend_strategy,
)
from sktransfer.inspection import report, saliency
from tests.selection.support import make_table, networks
from tests.support import images, tiny_backbone

for library in ("jinja2", "captum", "cleanlab"):
    pytest.importorskip(library)

pytestmark = pytest.mark.usefixtures("one_split_in_module")

HOSTILE = "<script>alert(1)</script>"
# Tags that have no end.
VOID = {"meta", "img", "rect", "line", "circle", "br"}


class Page(HTMLParser):
    """The elements of a page, its text, and whether tags are closed."""

    def __init__(self, text: str):
        super().__init__()
        self.elements, self.open, self.text = [], [], ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def all(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.elements if name == tag]


def read(made) -> Page:
    return Page(made.path.read_text(encoding="utf-8"))


def pipeline():
    return make_pipeline(PretrainedFeatureExtractor(tiny_backbone()), LogisticRegression())


@pytest.fixture
def files(colours, tmp_path):
    """Pictures in files whose names are markup; one is damaged and one there twice."""
    X, y = colours
    paths = []
    for i, image in enumerate(X):
        path = tmp_path / f"<img src=x onerror=alert({i})>.png"
        Image.fromarray(image).save(path)
        paths.append(path)
    paths[6].write_bytes(paths[6].read_bytes()[:60])
    y = np.where(y == "dark", HOSTILE, "a & b")
    return [*paths, paths[0]], np.append(y, y[0])


@pytest.mark.slow
def test_the_page_needs_no_network_and_escapes_names_and_labels(files, tmp_path):
    X, y = files
    made = report(pipeline(), X, y, tmp_path / "page.html", cv=3, title=HOSTILE, file=HOSTILE)
    page = read(made)
    assert page.all("script") == page.all("link") == page.all("iframe") == []
    assert all(image["src"].startswith("data:image/jpeg;base64,") for image in page.all("img"))
    assert not any("onerror" in attributes for _, attributes in page.elements)
    assert HOSTILE in page.text
    assert "<img src=x onerror=alert(6)>.png" in page.text
    (policy,) = [m["content"] for m in page.all("meta") if "http-equiv" in m]
    assert policy.startswith("default-src 'none'")
    urls = [a.get("href", "") for a in page.all("a")]
    assert all(url.startswith("#") for url in urls)
    frame = Page(made._repr_html_())
    assert [name for name, _ in frame.elements] == ["iframe"]
    assert frame.all("iframe")[0]["srcdoc"] == made.path.read_text(encoding="utf-8")


def test_the_data_are_described_and_unreadable_samples_left_out(files, tmp_path):
    X, y = files
    made = report(pipeline(), X, y, tmp_path / "page.html", cv=3)
    assert made.n_samples == 24
    assert [name.rpartition("/")[2] for name, _ in made.unreadable] == [X[6].name]
    assert made.sizes == {HOSTILE: 12, "a & b": 12}
    assert [0, 24] in made.duplicates.pairs.tolist()
    assert sorted(made.issues.indices) == [3, 10]
    assert len(made.issues.quality) == 25
    assert np.isnan(made.issues.quality[6])
    assert "1 could not be read, and is left out" in read(made).text


def test_near_duplicates_are_in_one_fold_and_scores_are_out_of_fold(tmp_path):
    rng = np.random.default_rng(0)
    X = [rng.integers(0, 256, (16, 16, 3)).astype(np.uint8) for _ in range(30)]
    X, y = X * 2, np.array(list(rng.permutation(["a", "b"] * 15)) * 2)
    model = make_pipeline(PretrainedFeatureExtractor(tiny_backbone()), SVC(C=1e4, gamma=1e3))
    made = report(model, X, y, tmp_path / "page.html", cv=4)
    # Labels are random: only a model that has seen a copy could be right.
    assert made.scores[0].value < 0.7
    assert made.n_folds == 4


def test_issues_and_errors_are_listed_with_their_saliency(colours, tmp_path):
    X, y = colours
    made = report(pipeline(), X, y, tmp_path / "page.html", cv=4, n_shown=3)
    assert sorted(made.issues.indices) == [3, 10]
    assert {case.name for case in made.worst} >= {"sample 3", "sample 10"}
    assert all(case.saliency.picture for case in made.worst)
    assert made.matrix.sum() == 24
    assert sum(pair.count for pair in made.confused) == (24 - np.trace(made.matrix))
    assert "time of a fit to 18 samples" in made.costs
    text = read(made).text
    assert "2 labels are probably wrong" in text
    assert "labelled dark, rather light" in text


@pytest.mark.slow
def test_a_blend_shows_its_members_and_a_recommendation_its_reasons(colours, tmp_path):
    X, y = colours
    advice = recommend_strategy(X[:16], y[:16], tiny_backbone(), max_epochs=0)
    model = TransferClassifier(tiny_backbone(), random_state=0, memory=tmp_path / "store")
    made = report(model, X, y, tmp_path / "page.html", cv=2, recommendation=advice)
    assert made.choice["strategy"] == "blend"
    assert sum(weight for _, weight in made.choice["members"]) == pytest.approx(1)
    text = read(made).text
    assert advice.title in text
    assert made.choice["members"][0][0] in text
    assert "store" not in made.choice["estimator"]  # a path of this machine
    assert not hasattr(model, "members_")


def test_a_fitted_estimator_is_judged_as_it_is_on_other_samples(pipeline_fitted, tmp_path):
    X, y = images(6, seed=5), np.array(["dark", "light", "other"] * 2)
    made = report(pipeline_fitted, X, y, tmp_path / "page.html", cv=None)
    expected = (pipeline_fitted.predict(X) == y).mean()
    assert made.scores[0].value == pytest.approx(expected)
    assert made.n_folds == 0
    assert "it was not fitted on them" in read(made).text
    with pytest.raises(ValueError, match="cv=None needs a fitted estimator"):
        report(pipeline(), X, y, tmp_path / "page.html", cv=None)


@pytest.fixture
def pipeline_fitted(colours):
    return pipeline().fit(*colours)


@pytest.mark.filterwarnings("ignore:.*of the tokens have no vector")
def test_texts_have_marked_words(tmp_path):
    rng = np.random.default_rng(0)
    names = ["good", "bad", "film", *"abcdefghijkl"]
    vectors = {w: rng.normal(size=8).astype(np.float32) for w in names}
    model = make_pipeline(
        PretrainedFeatureExtractor(load_word_vectors(vectors)), LogisticRegression()
    )
    X = [f"{word} {other} film {HOSTILE}" for other in names[3:] for word in ("good", "bad")]
    y = np.array(["yes", "no"] * 12)
    y[5] = "yes"
    made = report(model, X, y, tmp_path / "page.html", cv=3)
    page = read(made)
    classes = [attributes.get("class") for attributes in page.all("span")]
    assert {"for", "against"} & set(classes)
    assert page.all("script") == []
    assert HOSTILE in page.text
    assert made.worst


@pytest.mark.slow
def test_numbers_have_errors_instead_of_confusions(colours, tmp_path):
    X, _ = colours
    y = [image.mean() for image in X]
    model = TransferRegressor(tiny_backbone(), random_state=0)
    made = report(model, X, y, tmp_path / "page.html", cv=3, n_shown=2)
    assert made.scores[0].name == "R²"
    assert len(made.worst) == 2
    (figure,), (parts,) = made.scatters, made.residuals
    assert len(figure.points) == 24
    assert np.min(figure.points) == 0
    assert np.max(figure.points) == 1
    assert sum(int(row[1]) for row in parts.rows) == 24
    assert f"{np.abs(y - np.median(y)).mean():.4g}" in made.baseline
    page = read(made)
    assert "largest error" in page.text
    assert "Confusion" not in page.text
    assert len(page.all("circle")) == 24


@pytest.mark.slow
def test_each_of_several_numbers_has_scores_and_a_figure(colours, tmp_path):
    X, _ = colours
    y = pd.DataFrame({"mean": [x.mean() for x in X], "<b>red": [x[..., 0].mean() for x in X]})
    model = make_pipeline(PretrainedFeatureExtractor(tiny_backbone()), Ridge())
    made = report(model, X, y, tmp_path / "page.html", cv=3, n_shown=3)
    assert [row[0] for row in made.table.rows] == [*y]
    mean = np.mean([float(row[1]) for row in made.table.rows])
    assert mean == pytest.approx(made.scores[0].value, abs=1e-3)
    assert [one.title for one in made.scatters] == [*y]
    assert {case.explained for case in made.worst} <= {*y}
    assert "explained is" in read(made).text


@pytest.fixture(scope="module")
def labelled(colours):
    """The labels "dark" and "small"; the first is wrong for sample 3, the second always random."""
    X, _ = colours
    y = pd.DataFrame({"dark": [x.mean() < 128 for x in X], "<i>": [False, True, True] * 8})
    y.loc[3, "dark"] = not y.loc[3, "dark"]
    return X, y.astype(int)


@pytest.mark.parametrize(
    "model",
    [LogisticRegression(), RandomForestClassifier(20, random_state=0), RidgeClassifier()],
    ids=lambda model: type(model).__name__,
)
def test_several_labels_have_scores_each(model, labelled, tmp_path):
    X, y = labelled
    last = OneVsRestClassifier(model) if isinstance(model, LogisticRegression) else model
    made = report(
        make_pipeline(PretrainedFeatureExtractor(tiny_backbone()), last),
        X,
        y,
        tmp_path / "page.html",
        cv=4,
        n_shown=3,
    )
    assert made.sizes == y.sum().to_dict()
    assert [row[0] for row in made.table.rows] == [*y]
    scores = {one.name: one for one in made.scores}
    assert all(one.low <= one.value <= one.high for one in made.scores)
    wrong = sum(group.count for group in made.confused)
    assert scores["Hamming loss"].value == pytest.approx(wrong / y.size)
    assert any(group.title.endswith("labelled, not predicted") for group in made.confused)
    assert all(case.saliency.picture for case in made.worst)
    assert all(case.explained.startswith(("dark", "<i>")) for case in made.worst)
    has_odds = hasattr(last, "predict_proba")
    assert sum(one.count for one in made.calibration) == (y.size if has_odds else 0)
    assert (made.issues is None) == (not has_odds)
    page = read(made)
    assert "Wrong labels" in page.text
    assert page.all("i") == []


@pytest.mark.slow
def test_a_wrong_label_among_several_is_an_issue(labelled, tmp_path):
    X, y = labelled
    model = FineTunedClassifier(tiny_backbone(), trainable="head", max_epochs=20, random_state=0)
    made = report(model, [*X, "no.png"], [*y.to_numpy(), [0, 1]], tmp_path / "page.html", cv=3)
    assert 3 in made.issues.indices
    at = made.issues.indices.tolist().index(3)
    assert "label 0" in made.issues.given[at]
    assert made.issues.given[at] != made.issues.suggested[at]
    assert made.issues.quality.shape == (25,)
    fitted = model.fit(X[:12], y[:12])
    again = report(fitted, X[12:], y[12:], tmp_path / "page.html", cv=None)
    expected = (fitted.predict(X[12:]) == y[12:].to_numpy()).all(1).mean()
    assert again.scores[0].value == pytest.approx(expected)


@pytest.mark.parametrize("cls", [FineTunedClassifier, FineTunedRegressor])
def test_columns_of_a_fitted_model_keep_their_names_and_order(cls, labelled, tmp_path):
    X, y = labelled
    model = cls(tiny_backbone(), max_epochs=1, random_state=0).fit(X, y)
    pipeline = make_pipeline("passthrough", model)
    for other in (y[["<i>", "dark"]], y.rename(columns={"dark": "light"})):
        with pytest.raises(ValueError, match=r"y has the columns .* in this order"):
            report(pipeline, X, other, tmp_path / "page.html", cv=None)


@pytest.mark.slow
@pytest.mark.parametrize("names", [["dark", "<i>"], [1, 0]], ids=str)
def test_weights_by_the_names_of_labels_are_those_of_the_fits(names, labelled, tmp_path):
    X, y = labelled
    y = y.set_axis(names, axis=1)
    model = FineTunedClassifier(
        tiny_backbone(), max_epochs=1, class_weight={names[0]: 2.0}, random_state=0
    )
    made = report(model, [*X[:11], "no.png", X[11]], y[:13], tmp_path / "page.html", cv=2)
    assert [*made.sizes] == [str(name) for name in names]
    assert len(made.unreadable) == 1


def test_a_search_that_keeps_no_model_is_refused(colours, tmp_path):
    X, y = colours
    search = GridSearchCV(pipeline(), {"logisticregression__C": [1]}, cv=2, refit=False)
    for model, cv in ((search, 2), (search.fit(X, y), 2), (search, None)):
        with pytest.raises(ValueError, match=r"GridSearchCV with refit=False .* set refit=True"):
            report(model, X, y, tmp_path / "page.html", cv=cv)
    with pytest.raises(ValueError, match="set refit=True"):
        saliency(search, X[:1])


def test_a_frozen_estimator_is_judged_as_it_is_alone(colours, tmp_path):
    X, y = colours
    frozen = FrozenEstimator(pipeline().fit(X, y))
    for model in (frozen, FixedThresholdClassifier(frozen, threshold=0.5)):
        with pytest.raises(ValueError, match=r"cv=2 fits .* FrozenEstimator .* give cv=None"):
            report(model, X, y, tmp_path / "page.html", cv=2)
    made = report(frozen, X, y, tmp_path / "page.html", cv=None, n_shown=1)
    assert made.scores[0].value == frozen.score(X, y)
    features = FrozenEstimator(PretrainedFeatureExtractor(tiny_backbone()).fit(X))
    model = make_pipeline(features, LogisticRegression())
    assert report(model, X, y, tmp_path / "page.html", cv=2, n_shown=1).n_folds == 2


def test_labels_of_another_type_than_those_of_the_model_are_refused(colours, tmp_path):
    X, y = colours
    model = pipeline().fit(X, np.where(y == "dark", 0, 1))
    with pytest.raises(ValueError, match=r"and the model has .*0.* y\.astype\(model\.classes_"):
        report(model, X, np.array(["0", "1"] * 12), tmp_path / "page.html", cv=None)
    with pytest.raises(ValueError, match=r"labels such as .*0.*, and the model has .*'dark'"):
        report(pipeline().fit(X, y), X, [0, 1] * 12, tmp_path / "page.html", cv=None)


class Cautious(LogisticRegression):
    """A classifier that never predicts its second class, as probable as it may be."""

    def predict(self, X):
        return np.full(len(X), self.classes_[0])


@pytest.mark.parametrize("cv", [None, 2])
def test_what_predict_returns_is_judged_and_not_the_most_probable_class(cv, colours, tmp_path):
    X, y = colours
    model = make_pipeline(PretrainedFeatureExtractor(tiny_backbone()), Cautious()).fit(X, y)
    made = report(model, X, y, tmp_path / "page.html", cv=cv, n_shown=1)
    assert made.scores[0].value == model.score(X, y) == 0.5
    assert sum(each.count * each.accuracy for each in made.calibration) == pytest.approx(12)
    assert {case.predicted for case in made.worst} == {"dark"}


@pytest.mark.slow
def test_a_table_of_images_and_models_without_probabilities(tmp_path):
    X, y = load_digits(return_X_y=True)
    X, y = X[:40] / 16, y[:40] % 2
    extractor = PretrainedFeatureExtractor(tiny_backbone(), image_shape=(8, 8))
    made = report(make_pipeline(extractor, SVC()), X, y, tmp_path / "page.html", cv=2)
    assert made.calibration == []
    assert made.issues is None
    assert read(made).text.count("Calibration") == 0


def test_wrong_arguments_are_named(colours, tmp_path):
    X, y = colours
    with pytest.raises(ValueError, match="missing"):
        report(pipeline(), X, [None, *y[1:]], tmp_path / "page.html")
    with pytest.raises(ValueError, match="0 samples are readable"):
        report(pipeline(), ["no.png", "nor.png"], ["a", "b"], tmp_path / "page.html")
    with pytest.raises(ValueError, match="two classes"):
        report(pipeline(), X[:4], ["a"] * 4, tmp_path / "page.html")
    with pytest.raises(TypeError, match="has no backbone"):
        report(LogisticRegression(), X, y, tmp_path / "page.html")


@pytest.fixture
def rows(tmp_path):
    """Rows whose photographs are files, of which one is damaged and one is there twice."""
    X, bits = make_table(40)
    paths = [tmp_path / f"<b>{i}.png" for i in range(40)]
    for path, image in zip(paths, X["photo"], strict=True):
        image.save(path)
    paths[6].write_bytes(b"nothing")
    X = X.assign(photo=list(map(str, paths)))
    X.iloc[1, :2] = X.iloc[0, :2]
    return X, np.where(bits[:, 0] == 1, "light", "dark")


@pytest.mark.slow
def test_rows_of_a_table_are_shown_with_their_picture_and_their_cells(rows, tmp_path):
    X, y = rows
    y[3] = "dark" if y[3] == "light" else "light"  # a wrong label
    model = TransferClassifier(networks(), random_state=0)
    made = report(model, X, y, tmp_path / "page.html", cv=2, n_shown=4)
    assert (made.n_samples, made.noun) == (39, "rows")
    assert [name.rpartition("/")[2] for name, _ in made.unreadable] == ["<b>6.png"]
    assert [0, 1] in made.duplicates.pairs.tolist()
    assert 3 in made.issues.indices
    (case,) = [case for case in made.issue_cases if case.name == "sample 3"]
    assert case.shown.picture and f"text: {X['text'].iloc[3]}" in case.shown.words[0][0]
    worst = next(case for case in made.worst if case.name == "sample 3")
    words = [(text, value) for text, value in worst.saliency.words if value]
    assert max(words, key=lambda word: word[1])[0].startswith("photo: <b>3.png")
    assert "tinynet" in made.choice["backbone"] and len(made.choice["members"]) > 0
    page = read(made)
    assert "39 rows are used" in page.text and not page.all("b")
    assert page.all("img")


@pytest.mark.slow
def test_a_fitted_model_of_a_table_is_judged_as_it_is(rows, tmp_path):
    X, y = rows
    model = TransferClassifier(networks(), random_state=0, on_error="mean").fit(X, y)
    other, bits = make_table(24, seed=1)
    y = np.where(bits[:, 0] == 1, "light", "dark")
    other.iloc[2, 0] = None
    made = report(model, other, y, tmp_path / "page.html", cv=None, n_shown=2)
    assert made.n_samples == 24 and made.unreadable == []
    assert made.scores[0].value == model.score(other, y)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["search", "threshold"])
def test_searches_and_thresholds_around_a_model_of_a_table_are_reported(kind, tmp_path):
    X, bits = make_table(24)
    X, y = X[["text", "price"]], np.where(bits[:, 1] == 1, "bad", "good")
    model = TransferClassifier({"text": networks()["text"]}, random_state=0)
    if kind == "search":
        model = GridSearchCV(model, {"random_state": [0]}, cv=2)
    else:  # the rarer label needs a probability that it hardly has
        model = FixedThresholdClassifier(model, threshold=0.9999, pos_label="good")
    made = report(model, X, y, tmp_path / "page.html", cv=2, n_shown=1)
    assert (made.n_samples, made.noun) == (24, "rows")
    assert type(model).__name__ in made.choice["estimator"]
    made = report(model.fit(X, y), X, y, tmp_path / "page.html", cv=None, n_shown=1)
    assert made.scores[0].value == model.score(X, y) and model.estimator.memory is None
    if kind == "threshold":
        assert made.worst[0].saliency.words
        assert made.scores[0].value < 0.9
        assert made.worst[0].predicted == "bad" and made.worst[0].probability > 0


@pytest.mark.slow
def test_numbers_of_rows_without_a_picture(tmp_path):
    X, bits = make_table(20)
    X, y = X[["text", "price"]], bits[:, 2] + 0.5
    model = TransferRegressor({"text": networks()["text"]}, random_state=0)
    made = report(model, X, y, tmp_path / "page.html", cv=2, n_shown=2)
    assert made.worst[0].shown.picture == "" and "price: " in made.worst[0].shown.words[0][0]

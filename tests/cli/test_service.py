"""The service of ``sktransfer serve``, in this process and as a program with a browser."""

import asyncio
import base64
import io
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.ensemble import RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import FixedThresholdClassifier
from sklearn.multioutput import MultiOutputClassifier
from sklearn.pipeline import make_pipeline

import sktransfer
from sktransfer import (
    FineTunedClassifier,
    PretrainedClassifier,
    PretrainedFeatureExtractor,
    TransferClassifier,
    load_backbone,
    save,
)
from tests.cli.running import run
from tests.selection.support import judge_once, make_table, networks
from tests.support import TINY_SIZE, TinyNet, images, tiny_backbone

for library in ("captum", "fastapi", "httpx", "jinja2", "multipart", "uvicorn"):
    pytest.importorskip(library)

import httpx  # noqa: E402
from fastapi.testclient import TestClient  # noqa: E402

from sktransfer.cli.predicting import find_predictor, predict_samples  # noqa: E402
from sktransfer.cli.service import make_service  # noqa: E402

X, Y = images(12), np.array(["<b>ant", "bee", "wasp"] * 4)
SEVERAL = [
    MultiOutputClassifier(LogisticRegression()),
    RandomForestClassifier(2, random_state=0),
]
pytestmark = pytest.mark.integration


def encode(image) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def pipeline(last=None):
    last = LogisticRegression() if last is None else last
    return make_pipeline(PretrainedFeatureExtractor(tiny_backbone(), n_jobs=2), last)


@pytest.fixture(scope="module")
def model():
    return pipeline().fit(X, Y)


@pytest.fixture
def client(model):
    with TestClient(make_service(model, max_bytes=50_000)) as client:
        yield client


def send(client, content: bytes, path: str = "/predict", name: str = "a.png"):
    return client.post(path, files={"file": (name, content)})


@pytest.mark.slow
@pytest.mark.parametrize(
    "estimator",
    [pipeline(), FineTunedClassifier(tiny_backbone(), max_epochs=1, random_state=0)],
    ids=["pipeline", "fine-tuned"],
)
def test_uploads_in_eight_threads_get_the_probabilities_of_the_model(estimator):
    model = estimator.fit(X, Y)
    contents = [encode(image) for image in X] * 4
    with TestClient(make_service(model)) as client, ThreadPoolExecutor(8) as pool:
        answers = [
            a.raise_for_status().json() for a in pool.map(lambda c: send(client, c), contents)
        ]
    found = [[answer["probabilities"][name] for name in model.classes_] for answer in answers]
    np.testing.assert_allclose(found, model.predict_proba(contents), atol=1e-5)
    assert [answer["prediction"] for answer in answers] == model.predict(contents).tolist()


def test_numbers_have_no_probabilities():
    model = pipeline(Ridge()).fit(X, np.arange(12.0))
    with TestClient(make_service(model)) as client:
        answer = send(client, encode(X[3])).json()
    assert answer["probabilities"] is None
    assert answer["prediction"] == pytest.approx(model.predict([X[3]])[0], rel=1e-4)


def test_the_classes_of_the_network_itself_are_served():
    model = PretrainedClassifier(tiny_backbone()).fit(X)
    with TestClient(make_service(model)) as client:
        assert send(client, encode(X[3])).json()["prediction"] == model.predict([X[3]])[0]


@pytest.mark.parametrize("content", [b"", b"/etc/hostname", b"http://localhost/a.png", b"%PDF-1.4"])
@pytest.mark.parametrize("path", ["/predict", "/"])
def test_what_is_no_image_has_status_422_and_is_no_name_of_a_file(client, content, path):
    answer = send(client, content, path)
    assert answer.status_code == 422
    assert "not an image" in answer.text or "empty" in answer.text


def test_a_request_that_is_too_large_has_status_413_and_the_next_one_is_answered(client):
    answer = send(client, bytes(60_000))
    assert (answer.status_code, answer.json()["detail"]) == (
        413,
        "A request has at most 50,000 bytes.",
    )
    assert send(client, encode(X[0])).status_code == 200


def test_a_request_without_a_sample_has_status_422(client):
    assert client.post("/predict").status_code == 422
    assert client.post("/predict", json={"text": "a"}).status_code == 422


def test_an_empty_form_shows_the_page_with_what_to_do(client):
    for files in (None, {"file": ("", b"")}, {"other": ("a.png", b"x")}):
        answer = client.post("/", files=files)
        assert answer.status_code == 422
        assert "Choose a file." in answer.text and "<form" in answer.text
    assert client.post("/", data={"file": "words"}).status_code == 422


@pytest.mark.slow
def test_several_labels_are_predicted_together():
    several = np.array([[0, 1, 1], [1, 0, 0]] * 6)
    tuned = FineTunedClassifier(tiny_backbone(), max_epochs=1, random_state=0).fit(X, several)
    models = [tuned, *(pipeline(last).fit(X, several) for last in SEVERAL)]
    for model in models:
        with TestClient(make_service(model)) as client:
            answer = send(client, encode(X[0])).raise_for_status().json()
            assert send(client, encode(X[0]), "/").status_code == 200
        assert answer["prediction"] == model.predict(X[:1])[0].tolist()
        assert (answer["probabilities"] is None) == (model is not tuned)


@pytest.fixture(scope="module")
def of_rows():
    table, bits = make_table(48)
    y = np.where(bits[:, 0] == 1, "<b>light", "dark")
    return TransferClassifier(networks(), random_state=0).fit(table, y), table


def row_of(table, i):
    """The cells of a row as JSON has them."""
    row = table.iloc[i].to_dict()
    content = base64.b64encode(encode(np.asarray(row["photo"]))).decode()
    return row | {"photo": f"data:image/png;base64,{content}"}


@pytest.mark.slow
def test_rows_of_a_table_are_predicted(of_rows):
    model, table = of_rows
    with TestClient(make_service(model)) as client:
        answers = [client.post("/predict", json=row_of(table, i)).json() for i in range(6)]
        described = client.get("/openapi.json").json()["paths"]["/predict"]["post"]["description"]
    assert [answer["prediction"] for answer in answers] == model.predict(table[:6]).tolist()
    found = [[answer["probabilities"][name] for name in model.classes_] for answer in answers]
    np.testing.assert_allclose(found, model.predict_proba(table[:6]), atol=1e-5)
    assert "photo (data URI), text (words), price (number), colour (category)" in described


@pytest.mark.parametrize(
    ("text", "number"),
    [("true", True), ("False", False), ("51.5", 51.5), (" -2 ", -2), ("1e2", 100)],
)
def test_texts_of_numbers_and_booleans_are_numbers_in_json(of_rows, text, number):
    model, table = of_rows
    with TestClient(make_service(model)) as client:
        answers = [
            client.post("/predict", json=row_of(table, 0) | {"price": price})
            for price in (text, number)
        ]
    assert answers[0].status_code == 200
    assert answers[0].json() == answers[1].json()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"photo": "/etc/hostname"}, "photo: give data:image"),
        ({"photo": {"path": "/etc/hostname"}}, "photo: give data:image"),
        ({"photo": "data:image/png;base64,AAAA"}, "cannot be read"),
        ({"photo": None}, "column 'photo' is missing"),
        ({"text": 3}, "column 'text': expected a text, got 3;"),
        ({"price": "cheap"}, "'price' has numbers in fit, and 'cheap': give"),
        ({"price": "1_000"}, "'price' has numbers in fit, and '1_000': give"),
        ({"price": "inf"}, "'price' has numbers in fit, and inf: give a finite number"),
        ({"price": 10**400}, "'price' has numbers in fit"),
        ({"colour": ["red"]}, "'colour' has categories in fit, and ['red']: give"),
    ],
)
def test_a_row_with_a_wrong_cell_has_status_422(of_rows, changed, message):
    model, table = of_rows
    with TestClient(make_service(model)) as client:
        answer = client.post("/predict", json=row_of(table, 0) | changed)
        assert answer.status_code == 422 and message in answer.json()["detail"]
        without = row_of(table, 0)
        del without["price"]
        answer = client.post("/predict", json=without)
        assert answer.status_code == 422 and "['price']" in answer.json()["detail"]
        answer = client.post("/predict", json={})
        assert answer.status_code == 422 and "Fields are missing: ['photo'," in answer.text


def test_a_damaged_image_is_refused_by_a_model_that_fills_what_is_missing(monkeypatch):
    judge_once(monkeypatch)
    table, y = make_table(24)[0], ["light", "dark"] * 12
    model = TransferClassifier(networks(), on_error="mean", random_state=0).fit(table, y)
    damaged = "data:image/png;base64," + base64.b64encode(encode(X[0])[:60]).decode()
    without = table[:1].assign(photo=None)
    with TestClient(make_service(model)) as client:
        answer = client.post("/predict", json=row_of(table, 0) | {"photo": damaged})
        filled = client.post("/predict", json=row_of(table, 0) | {"photo": None})
        cells = {"text": "a good film", "price": "51.5"}
        page = client.post("/", data=cells, files={"photo": ("a.png", encode(X[0])[:60])})
        empty_page = client.post("/", data=cells)
    assert answer.status_code == page.status_code == 422
    assert "The sample cannot be read: column 'photo': " in answer.json()["detail"]
    assert "cannot be read: column &#39;photo&#39;" in page.text
    assert filled.status_code == empty_page.status_code == 200
    found = [filled.json()["probabilities"][name] for name in model.classes_]
    np.testing.assert_allclose(found, model.predict_proba(without)[0], atol=1e-5)


def test_a_damaged_image_is_refused_by_a_model_that_has_nan_for_it():
    features = PretrainedFeatureExtractor(tiny_backbone(), on_error="nan")
    model = make_pipeline(features, SimpleImputer(), LogisticRegression()).fit(X, Y)
    with TestClient(make_service(model, explain=False)) as client:
        answers = [
            client.post(path, files={"file": ("a.png", data)})
            for path in ("/predict", "/")
            for data in (encode(X[0])[:60], b"no image")
        ]
        whole = client.post("/predict", files={"file": ("a.png", encode(X[0]))})
    assert [answer.status_code for answer in answers] == [422] * 4
    assert all("The sample cannot be read" in answer.text for answer in answers)
    assert whole.status_code == 200


def test_the_page_has_a_field_for_each_column(of_rows):
    model, table = of_rows
    cells = {"text": "a <i>good</i> film", "price": "51.5", "colour": ""}
    photo = {"photo": ("a.png", encode(np.asarray(table["photo"].iloc[0])))}
    with TestClient(make_service(model)) as client:
        empty = client.get("/").text
        page = client.post("/", data=cells, files=photo)
        wrong = client.post("/", data=cells | {"price": "cheap"}, files=photo)
        nothing = client.post("/", data=cells)
    assert all(f'name="{name}"' in empty for name in table)
    assert page.status_code == 200 and "price: 51.5" in page.text and "colour: missing" in page.text
    assert "&lt;i&gt;good" in page.text and "What the prediction depends on" in page.text
    assert "data:image/jpeg" in page.text
    assert wrong.status_code == 422 and "has numbers in fit" in wrong.text
    assert nothing.status_code == 422 and "on_error" not in nothing.text
    assert "column &#39;photo&#39; is missing" in nothing.text


@pytest.mark.parametrize("name", ["{}", "file://{}", "http://127.0.0.1:9/a.png", "data:,a", " "])
def test_a_form_cannot_name_a_file_or_a_url_as_an_image(of_rows, tmp_path, name):
    path = tmp_path / "secret.png"
    path.write_bytes(encode(X[0]))
    name = name.format(path)
    cells = {"text": "a good film", "price": "51", "colour": "red"}
    with TestClient(make_service(of_rows[0])) as client:
        for answer in (
            client.post("/", data=cells | {"photo": name}),
            client.post("/", data=cells, files={"photo": (None, name)}),
        ):
            assert answer.status_code == 422 and "photo: choose a file." in answer.text
            assert "data:image" not in answer.text
        upload = {"photo": ("a.png", encode(X[0])), "text": ("a.txt", b"a good film")}
        answer = client.post("/", data=cells | {"text": ""}, files=upload)
        assert answer.status_code == 422 and "text: write a text." in answer.text


def test_the_probabilities_of_label_sets_have_the_names_of_their_columns():
    table = pd.DataFrame({"red": [0, 1] * 6, "round": [1, 0] * 6})
    model = FineTunedClassifier(tiny_backbone(), max_epochs=1, random_state=0)
    with pytest.warns(UserWarning, match="single 1"):
        model.fit(X, table)
    with TestClient(make_service(model)) as client:
        answer = send(client, encode(X[0])).json()
    assert list(answer["probabilities"]) == ["red", "round"]


def test_a_threshold_around_the_model_decides():
    inner = pipeline()
    model = FixedThresholdClassifier(inner, threshold=0.999).fit(X, np.arange(12) % 2)
    with TestClient(make_service(model)) as client:
        answer = send(client, encode(X[1])).raise_for_status().json()
        assert send(client, encode(X[1]), "/").status_code == 200
    assert answer["prediction"] == model.predict(X[1:2])[0] == 0
    assert answer["probabilities"]["1"] == pytest.approx(model.predict_proba(X[1:2])[0, 1])


def test_an_estimator_that_does_not_predict_is_refused():
    extractor = PretrainedFeatureExtractor(tiny_backbone()).fit(X)
    with pytest.raises(TypeError, match="PretrainedFeatureExtractor does not predict"):
        make_service(extractor)


def test_a_request_that_arrives_slowly_has_status_408(model, monkeypatch):
    monkeypatch.setattr("sktransfer.cli.service._SECONDS", 0.01)
    kind = (b"content-type", b"multipart/form-data; boundary=x")
    request = {"type": "http", "method": "POST", "path": "/predict", "headers": [kind]}
    request |= {"query_string": b"", "http_version": "1.1", "scheme": "http"}
    sent = []

    async def nothing():
        await asyncio.sleep(60)

    async def send(message):
        sent.append(message)

    asyncio.run(make_service(model)(request, nothing, send))
    assert sent[0]["status"] == 408


def test_health_and_the_description_of_the_service(client):
    health = client.get("/health").json()
    assert (health["status"], health["model"], health["network"]) == ("ok", "Pipeline", "tinynet")
    assert list(client.get("/openapi.json").json()["paths"]) == ["/health", "/", "/predict"]
    assert client.get("/docs").status_code == 200


def test_the_version_is_that_of_the_code(client):
    assert client.get("/health").json()["version"] == sktransfer.__version__
    assert client.get("/openapi.json").json()["info"]["version"] == sktransfer.__version__


def test_names_and_labels_are_text_on_the_page(client):
    page = send(client, encode(X[0]), "/", "<script>alert(1)</script>.png")
    assert page.status_code == 200
    assert "<script" not in page.text
    assert "&lt;script&gt;" in page.text
    assert "&lt;b&gt;ant" in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]


def test_texts_are_served_as_json_and_on_the_page(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("good 1 0\nbad 0 1\nfilm 0.5 0.5\n")
    extractor = PretrainedFeatureExtractor("word-vectors", weights=str(path))
    texts = ["good film", "bad film"] * 4
    model = make_pipeline(extractor, LogisticRegression()).fit(texts, ["yes", "no"] * 4)
    with TestClient(make_service(model)) as client:
        assert client.post("/predict", json={"text": "a good film"}).json()["prediction"] == "yes"
        wrong = client.post("/predict", json={"text": 3, "other": "secret"})
        assert wrong.status_code == 422
        assert [set(one) for one in wrong.json()["detail"]] == [{"loc", "msg"}]
        assert client.post("/predict", content=encode(X[0])).status_code == 422
        assert send(client, encode(X[0])).status_code == 422
        empty = client.post("/", data={"text": ""})
        assert empty.status_code == 422 and "Write a text." in empty.text
        page = client.post("/", data={"text": "bad <i>film"})
    assert 'id="prediction">no<' in page.text
    assert "&lt;" in page.text and "<i>" not in page.text


def test_a_network_for_arrays_is_refused():
    network = load_backbone(TinyNet(), modality="array", preprocess=None)
    model = PretrainedClassifier(network)
    with pytest.raises(ValueError, match="takes files or texts, and the network arrays"):
        make_service(model)


def test_the_program_answers_as_many_requests_as_queue_says(tiny, tmp_path, monkeypatch):
    save(PretrainedClassifier(tiny).fit(X), tmp_path / "m.skt")
    given = {}
    monkeypatch.setattr("uvicorn.run", lambda service, **settings: given.update(settings))
    run("serve", tmp_path / "m.skt", "--queue", 3, "--port", 0)
    assert (given["limit_concurrency"], given["timeout_graceful_shutdown"]) == (4, 5)


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """The address of ``sktransfer serve``, its process and the model."""
    model = make_pipeline(PretrainedFeatureExtractor(image_size=32), LogisticRegression())
    path = tmp_path_factory.mktemp("served") / "model.skt"
    save(model.fit(X, Y), path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "sktransfer", "serve", str(path), "--port", str(port)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        yield f"http://127.0.0.1:{port}", process, model
        process.kill()


def wait_for(address: str, process) -> None:
    while process.poll() is None:
        try:
            return httpx.get(f"{address}/health", timeout=60).raise_for_status()
        except httpx.TransportError:
            time.sleep(0.1)
    raise AssertionError(process.stderr.read())


@pytest.mark.slow
def test_a_program_answers_forty_requests_of_eight_clients(program, loopback, interrupts):
    address, process, model = program
    wait_for(address, process)
    contents = [encode(X[i % 12]) for i in range(40)]

    def client(some: list[bytes]) -> list[dict]:
        with httpx.Client(base_url=address, timeout=120) as connection:
            return [send(connection, content).raise_for_status().json() for content in some]

    with ThreadPoolExecutor(8) as pool:
        parts = list(pool.map(client, [contents[i::8] for i in range(8)]))
    expected = model.predict_proba(X)
    for i, part in enumerate(parts):
        found = [[answer["probabilities"][name] for name in model.classes_] for answer in part]
        np.testing.assert_allclose(found, expected[np.arange(i, 40, 8) % 12], atol=1e-4)


def test_the_page_of_the_program_takes_an_upload_in_a_browser(program, loopback, browser, tmp_path):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.wait import WebDriverWait

    address, process, model = program
    wait_for(address, process)
    Image.fromarray(X[1]).save(tmp_path / "bee.png")
    browser.get(address)
    browser.find_element(By.NAME, "file").send_keys(str(tmp_path / "bee.png"))
    browser.find_element(By.TAG_NAME, "button").click()
    # A click may return before the next page is there.
    answer = WebDriverWait(browser, 60).until(lambda page: page.find_elements(By.ID, "prediction"))
    assert answer[0].text == model.predict([X[1]])[0]
    pictures = browser.find_elements(By.TAG_NAME, "img")
    assert [picture.get_property("naturalWidth") > 0 for picture in pictures] == [True, True]
    assert [e for e in browser.get_log("browser") if "favicon" not in e["message"]] == []


@pytest.mark.slow
def test_an_interrupt_ends_the_program(program, loopback, interrupts):
    address, process, _ = program
    wait_for(address, process)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    errors = process.stderr.read()
    assert "end it by Ctrl-C" in errors
    assert "Traceback" not in errors


def test_label_sets_are_served_from_one_pass_through_the_network():
    opened = []

    def preprocess(image):
        opened.append(image)
        return TINY_SIZE(np.asarray(image))

    backbone = tiny_backbone(preprocess=preprocess)
    model = FineTunedClassifier(backbone, lr=0.1, max_epochs=2, random_state=0)
    model.fit(X, np.column_stack([Y == "bee", Y != "wasp"]).astype(int))
    expected = model.predict(X)
    assert set(expected.ravel()) == {0, 1}
    opened.clear()
    predictions = predict_samples(find_predictor(model), X)
    assert [prediction.value for prediction in predictions] == expected.tolist()
    assert len(opened) == len(X)

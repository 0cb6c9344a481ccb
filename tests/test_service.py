"""A web service that is fed with uploads in several threads."""

import io
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from fastapi import FastAPI, HTTPException, UploadFile
from fastapi.testclient import TestClient
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from sktransfer import FineTunedClassifier, PretrainedFeatureExtractor, UnreadableSamplesError
from tests.support import images, tiny_backbone

X, Y = images(12), np.array(["ant", "bee", "wasp"] * 4)


def encode(image) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def make_app(model) -> FastAPI:
    app = FastAPI()

    @app.post("/predict")
    def predict(file: UploadFile) -> dict[str, float]:
        try:
            (row,) = model.predict_proba([file])
        except UnreadableSamplesError as error:
            raise HTTPException(422, str(error)) from error
        return dict(zip(model.classes_.tolist(), row.tolist(), strict=True))

    return app


def pipeline():
    return make_pipeline(PretrainedFeatureExtractor(tiny_backbone()), LogisticRegression())


def fine_tuned():
    return FineTunedClassifier(tiny_backbone(), max_epochs=1, random_state=0)


@pytest.mark.integration
@pytest.mark.parametrize("make", [pipeline, fine_tuned])
def test_uploads_in_four_threads_get_the_probabilities_of_the_model(make):
    model = make().fit(X, Y)
    contents = [encode(image) for image in X] * 4
    with TestClient(make_app(model)) as client, ThreadPoolExecutor(4) as pool:

        def upload(content: bytes) -> list[float]:
            answer = client.post("/predict", files={"file": content})
            return [answer.raise_for_status().json()[name] for name in model.classes_]

        found = np.array(list(pool.map(upload, contents)))
        np.testing.assert_allclose(found, model.predict_proba(contents), atol=1e-5)
        bad = client.post("/predict", files={"file": b"no image"})
        assert bad.status_code == 422
        assert "not an image (8 bytes)" in bad.json()["detail"]

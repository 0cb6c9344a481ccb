"""
A web service for uploads
=========================

A fitted model is shared by the threads of a FastAPI service, which classifies the images that are
uploaded to it.
"""

# %%
# The images are digits of scikit-learn. An upload contains an encoded image, which is a sample: it
# needs no conversion, neither for training nor for predictions.
import io

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from sktransfer import PretrainedFeatureExtractor, UnreadableSamplesError


def encode(image):
    buffer = io.BytesIO()
    Image.fromarray(image).resize((32, 32)).save(buffer, "PNG")
    return buffer.getvalue()


digits = load_digits()
uploads = [encode((image * 15).astype(np.uint8)) for image in digits.images[:200]]
extractor = PretrainedFeatureExtractor(image_size=64, n_jobs=None)
model = make_pipeline(extractor, LogisticRegression(max_iter=1000))
model.fit(uploads[:140], digits.target[:140])

# %%
# The endpoint is a plain function, so that FastAPI calls it in a thread of its own. An upload that
# is no image is answered with the status 422 and the reason.
from fastapi import FastAPI, HTTPException, UploadFile

app = FastAPI()


@app.post("/predict")
def predict(file: UploadFile) -> list[float]:
    try:
        return model.predict_proba([file])[0].tolist()
    except UnreadableSamplesError as error:
        raise HTTPException(422, str(error)) from error


# %%
# Four threads send uploads. The test client calls the service without a network.
import time
from concurrent.futures import ThreadPoolExecutor

from fastapi.testclient import TestClient


def send(content):
    start = time.perf_counter()
    answer = client.post("/predict", files={"file": content}).json()
    return 1e3 * (time.perf_counter() - start), answer


with TestClient(app) as client, ThreadPoolExecutor(4) as pool:
    answers = list(pool.map(send, uploads[140:]))
    refused = client.post("/predict", files={"file": b"no image"})

probabilities = np.array([answer for _, answer in answers])
print("equal to the model:", np.allclose(probabilities, model.predict_proba(uploads[140:])))
print("accuracy:", np.mean(probabilities.argmax(axis=1) == digits.target[140:200]))
print(refused.status_code, refused.json()["detail"])

# %%
# ``benchmarks/service.py`` measures a service in a process of its own, compared with the network
# alone.
from matplotlib import pyplot as plt

figure, axis = plt.subplots(figsize=(6, 3), layout="constrained")
axis.hist([milliseconds for milliseconds, _ in answers], bins=20)
axis.set(xlabel="milliseconds until the answer", ylabel="uploads")
plt.show()

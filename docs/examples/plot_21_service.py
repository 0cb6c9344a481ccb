"""
A web service for uploads
=========================

A fitted model is shared by the threads of a FastAPI service, which classifies the images that are
uploaded to it.
"""

# %%
# An upload contains an encoded image, which is a sample: it needs no conversion. Here, photographs
# that ship with scikit-learn and scikit-image are sent as JPEG files.
import io

from PIL import Image
from skimage import data
from sklearn.datasets import load_sample_images

from sktransfer import PretrainedClassifier, UnreadableSamplesError


def encode(image):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG")
    return buffer.getvalue()


photos = [*load_sample_images().images, data.chelsea(), data.coffee(), data.rocket()]
uploads = [encode(photo) for photo in photos]
model = PretrainedClassifier(n_jobs=None).fit(photos[:1])

# %%
# The endpoint is a plain function, so that FastAPI calls it in a thread of its own. An upload that
# is no image is answered with the status 422 and the reason.
from fastapi import FastAPI, HTTPException, UploadFile

app = FastAPI()


@app.post("/predict")
def predict(file: UploadFile) -> dict:
    try:
        names, probabilities = model.predict_top_k([file], k=1)
    except UnreadableSamplesError as error:
        raise HTTPException(422, str(error)) from error
    return {"class": str(names[0, 0]), "probability": float(probabilities[0, 0])}


# %%
# Four threads send uploads. The test client calls the service without a network.
from concurrent.futures import ThreadPoolExecutor

from fastapi.testclient import TestClient


def send(content):
    return client.post("/predict", files={"file": content}).json()


with TestClient(app) as client, ThreadPoolExecutor(4) as pool:
    answers = list(pool.map(send, uploads))
    refused = client.post("/predict", files={"file": b"no image"})

print(refused.status_code, refused.json()["detail"])

# %%
# The photographs with the answers of the service. ``sktransfer serve FILE`` starts such a service
# for a saved model, and ``benchmarks/service.py`` measures one, compared with the network alone.
from matplotlib import pyplot as plt
from PIL import ImageOps

figure, axes = plt.subplots(1, 5, figsize=(10, 2.5), layout="constrained")
for axis, photo, answer in zip(axes, photos, answers, strict=True):
    axis.imshow(ImageOps.fit(Image.fromarray(photo), (240, 240)))
    axis.set_title(f"{answer['class']}, {answer['probability']:.0%}")
    axis.axis("off")
plt.show()

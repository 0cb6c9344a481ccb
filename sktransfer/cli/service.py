"""A web service around a fitted model: a page for one sample, and predictions as JSON."""
# FastAPI evaluates annotations, so that they stand here as they are.

import contextlib
from collections.abc import AsyncIterator
from importlib.metadata import version
from typing import Any

import anyio.to_thread
import numpy as np
from fastapi import FastAPI, Form, HTTPException, UploadFile
from fastapi.responses import HTMLResponse
from pydantic import BaseModel

from ..data import UnreadableSamplesError
from ..features import NetworkStep, find_network
from ..inspection import saliency
from ..inspection.explaining import show_saliency
from ..inspection.page import Shown, render, show

__all__ = ["make_service"]

_N_SHOWN = 5  # classes on the page
_NO_SCRIPTS = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; form-action 'self'"
_HEADERS = {"Content-Security-Policy": _NO_SCRIPTS, "X-Content-Type-Options": "nosniff"}


class Text(BaseModel):
    """A text to be classified."""

    text: str


class Prediction(BaseModel):
    """The prediction of one sample, with the probability of each class of a classifier."""

    prediction: Any
    probabilities: dict[str, float] | None = None


class Health(BaseModel):
    """What is served."""

    status: str
    model: str
    network: str
    version: str


def make_service(
    estimator: Any, *, n_threads: int = 4, max_bytes: int = 20 * 2**20, explain: bool = True
) -> FastAPI:
    """Make a service that predicts one sample a request.

    ``GET /`` is a page with a field for an image or a text, without scripts. ``POST /predict``
    takes an image as the file ``file`` of a form, or ``{"text": ...}``, and returns JSON.
    ``GET /health`` tells what is served, and ``GET /openapi.json`` describes the service. A sample
    that cannot be read has the status 422, a request that is too large 413. Requests never name
    files of the server.

    Parameters
    ----------
    estimator : estimator of sktransfer, or a pipeline with one
        Fitted, for images or texts.
    n_threads : int, default=4
        The number of requests that are computed at once. The others wait.
    max_bytes : int, default=20 MiB
        The size of a request.
    explain : bool, default=True
        Whether the page shows what a prediction depends on.

    Returns
    -------
    fastapi.FastAPI

    Raises
    ------
    ValueError
        If the network is neither for images nor for texts.
    """

    network = find_network(estimator)
    modality = network.modality
    if not (modality.takes_files or modality.has_tokens):
        raise ValueError(f"A service takes files or texts, and the network {modality.noun}.")
    settings = {"n_jobs": None, "verbose": 0}  # each request is computed in its own thread
    for name, value in settings.items():
        if hasattr(network.step, name):
            network.step.set_params(**{name: value})

    @contextlib.asynccontextmanager
    async def limit_threads(app: FastAPI) -> AsyncIterator[None]:
        anyio.to_thread.current_default_thread_limiter().total_tokens = n_threads
        yield

    app = FastAPI(title="sktransfer", version=version("sktransfer"), lifespan=limit_threads)
    app.add_middleware(_LimitBody, max_bytes=max_bytes)
    about = Health(
        status="ok",
        model=type(estimator).__name__,
        network=network.step.backbone_.name,
        version=version("sktransfer"),
    )

    def predict(sample: Any) -> Prediction:
        try:
            return _predict(network, sample)
        except UnreadableSamplesError as error:
            ((_, _, cause),) = error.problems
            raise HTTPException(422, f"The sample cannot be read: {cause}") from error

    def page(sample: Any = None, name: str = "") -> HTMLResponse:
        shown: dict[str, Any] = {"name": name, "prediction": None, "error": "", "saliency": None}
        if sample is not None:
            try:
                shown["prediction"] = predict(sample)
                shown["sample"] = show(modality.preview(modality.read(sample), 256))
                shown["saliency"] = _explanation(estimator, sample) if explain else None
            except HTTPException as error:
                shown["error"] = error.detail
        status = 422 if shown["error"] else 200
        result = render(
            "service.html.jinja",
            about=about,
            n_shown=_N_SHOWN,
            shown=shown,
            takes_texts=modality.has_tokens,
        )
        return HTMLResponse(result, status, headers=_HEADERS)

    @app.get("/health")
    def health() -> Health:
        return about

    @app.get("/", response_class=HTMLResponse)
    def empty_page() -> HTMLResponse:
        return page()

    if modality.has_tokens:

        @app.post("/predict")
        def predict_text(body: Text) -> Prediction:
            return predict(body.text)

        @app.post("/", response_class=HTMLResponse)
        def page_of_text(text: str = Form()) -> HTMLResponse:
            return page(text)

    else:

        @app.post("/predict")
        def predict_image(file: UploadFile) -> Prediction:
            return predict(file.file.read())

        @app.post("/", response_class=HTMLResponse)
        def page_of_image(file: UploadFile) -> HTMLResponse:
            return page(file.file.read(), file.filename or "")

    return app


def _predict(network: NetworkStep, sample: Any) -> Prediction:
    """Predict a sample, which passes the network once."""
    X = network.samples([sample])
    if network.after is None:
        model = network.step
    else:
        model, X = network.after, network.step.transform(X)
    if not hasattr(model, "predict_proba"):
        return Prediction(prediction=model.predict(X).tolist()[0])
    probabilities = np.asarray(model.predict_proba(X))
    if network.after is not None or probabilities.shape != (1, len(model.classes_)):
        prediction = model.predict(X)[0]  # thresholds may decide, or there are several labels
    else:
        prediction = model.classes_[probabilities[0].argmax()]
    if probabilities.shape != (1, len(model.classes_)):
        return Prediction(prediction=prediction.tolist())
    by_class = zip(map(str, model.classes_.tolist()), probabilities[0].tolist(), strict=True)
    return Prediction(prediction=np.asarray(prediction).tolist(), probabilities=dict(by_class))


def _explanation(estimator: Any, sample: Any) -> Shown | None:
    """Return what a prediction depends on; None where that cannot be computed."""
    try:
        return show_saliency(saliency(estimator, [sample]), 0)
    except (TypeError, ValueError):
        return None


class _LimitBody:
    """End a request with the status 413 once more than some bytes of it have arrived.

    Parameters
    ----------
    app : ASGI application
    max_bytes : int
    """

    def __init__(self, app: Any, max_bytes: int):
        self.app = app
        self.max_bytes = max_bytes

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        n_bytes = 0

        async def receive_some() -> Any:
            nonlocal n_bytes
            message = await receive()
            n_bytes += len(message.get("body", b""))
            if n_bytes > self.max_bytes:
                raise HTTPException(413, f"A request has at most {self.max_bytes:,} bytes.")
            return message

        await self.app(scope, receive_some, send)

"""A web service around a fitted model: a page for one sample, and predictions as JSON."""
# FastAPI evaluates annotations, so that they stand here as they are.

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Annotated, Any

import anyio.to_thread
from fastapi import Depends, FastAPI, Form, HTTPException, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from pydantic import BaseModel
from starlette.datastructures import FormData

from ..data import (
    CATEGORY,
    NUMBER,
    UnreadableSamplesError,
    as_numbers,
    get_modality,
    package_versions,
)
from ..inspection import saliency
from ..inspection.explaining import show_saliency
from ..inspection.page import Shown, render, show
from .predicting import Prediction, as_X, find_predictor, predict_samples

_N_SHOWN = 5  # classes on the page
_SECONDS = 60.0  # for the arrival of a request
_NO_SCRIPTS = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; form-action 'self'"
_HEADERS = {"Content-Security-Policy": _NO_SCRIPTS, "X-Content-Type-Options": "nosniff"}


class Text(BaseModel):
    """A text to be classified."""

    text: str


class Answer(BaseModel):
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

    ``GET /`` is a page with a field for an image or a text, or one for each column, without
    scripts. ``POST /predict`` takes an image as the file ``file`` of a form, or ``{"text": ...}``,
    or the cells of a row by column, of which images are data URIs, and returns JSON.
    ``GET /health`` tells what is served, and ``GET /openapi.json`` describes the service. A sample
    that cannot be read has the status 422, with ``on_error="nan"`` and "mean" too; "mean" fills
    cells that are missing. A request that is too large has the status 413. Requests never name
    files of the server.

    Parameters
    ----------
    estimator : estimator of sktransfer, or a pipeline with one
        Fitted, for images, texts, or tables of these, numbers and categories. With ``n_jobs=None``
        each request is computed in its own thread.
    n_threads : int, default=4
        The number of requests that are computed at once. The others wait.
    max_bytes : int, default=20 MiB
        The size of a request.
    explain : bool, default=True
        Whether the page shows what a prediction depends on.

    Raises
    ------
    ValueError
        If a network is neither for images nor for texts.
    TypeError
        If the estimator does not predict.
    """
    network = find_predictor(estimator)
    modality, kinds = network.modality, network.step.column_kinds_ if network.reads_table else {}
    read = [get_modality(kind) for kind in kinds.values() if kind not in (NUMBER, CATEGORY)]
    for each in read or [modality]:
        if not (each.takes_files or each.has_tokens):
            raise ValueError(f"A service takes files or texts, and the network {each.noun}.")

    @contextlib.asynccontextmanager
    async def limit_threads(app: FastAPI) -> AsyncIterator[None]:
        anyio.to_thread.current_default_thread_limiter().total_tokens = n_threads
        yield

    version = package_versions()["sktransfer"]
    app = FastAPI(title="sktransfer", version=version, lifespan=limit_threads)
    app.add_middleware(_LimitBody, max_bytes=max_bytes, seconds=_SECONDS)
    about = Health(
        status="ok",
        model=type(estimator).__name__,
        network=network.step.backbone_.name,
        version=version,
    )

    def predict(sample: Any) -> Answer:
        try:
            # Who sends a damaged image shall know, and not get the answer for a mean or no image.
            predicted = predict_samples(network, [sample], refuse_unreadable=True)
            return _as_json(predicted[0])
        except UnreadableSamplesError as error:
            ((_, cell, cause),) = error.problems
            why = f"{error.name}: {cause}" if kinds else str(cause)
            if kinds and cell is None:
                why = f"{error.name} is missing"
            raise HTTPException(422, f"The sample cannot be read: {why}") from error
        except ValueError as error:
            if not kinds:
                raise
            raise HTTPException(422, str(error)) from error  # of columns that lack, and numbers

    def page(sample: Any = None, name: str = "", error: str = "") -> HTMLResponse:
        shown: dict[str, Any] = {"name": name, "prediction": None, "error": error, "saliency": None}
        if sample is not None:
            try:
                shown["prediction"] = predict(sample)
                X = as_X(network, [sample])
                one = network.check(X)[0] if kinds else modality.read(sample)
                shown["sample"] = show(modality.preview(one, 256))
                shown["saliency"] = _explanation(estimator, X) if explain else None
            except HTTPException as refused:
                shown["error"] = refused.detail
        status = 422 if shown["error"] else 200
        result = render(
            "service.html.jinja",
            about=about,
            fields=fields,
            n_shown=_N_SHOWN,
            shown=shown,
        )
        return HTMLResponse(result, status, headers=_HEADERS)

    fields = [("text", "Text", "words") if modality.has_tokens else ("file", "Image", "data URI")]
    if kinds:
        fields = [(str(name), str(name), _field(kind)) for name, kind in kinds.items()]
    nothing = "Write a text." if modality.has_tokens else "Choose a file."

    @app.exception_handler(RequestValidationError)
    def wrong_request(request: Request, error: RequestValidationError) -> Response:
        """Say what is wrong with a request; what it sent may be large, or no text."""
        if getattr(request.scope.get("route"), "path", "") == "/":
            return page(error=nothing)
        problems = [{"loc": problem["loc"], "msg": problem["msg"]} for problem in error.errors()]
        return JSONResponse({"detail": problems}, 422)

    @app.get("/health")
    def health() -> Health:
        return about

    @app.get("/", response_class=HTMLResponse)
    def empty_page() -> HTMLResponse:
        return page()

    if kinds:
        described = ", ".join(f"{name} ({_field(kind)})" for name, kind in kinds.items())

        @app.post("/predict", description=f"The cells of a row: {described}.")
        def predict_row(row: dict[str, Any]) -> Answer:
            lacking = [str(name) for name in kinds if str(name) not in row]
            if lacking:
                raise HTTPException(422, f"Fields are missing: {lacking}. A missing cell is null.")
            for name, kind in kinds.items():
                cell = row.get(str(name))
                if _field(kind) == "data URI" and cell is not None:  # a name would be one of a file
                    if not (isinstance(cell, str) and cell.startswith("data:")):
                        raise HTTPException(422, f"{name}: give data:image/png;base64,… for it.")
            return predict({name: _number(row[str(name)], kind) for name, kind in kinds.items()})

        @app.post("/", response_class=HTMLResponse)
        def page_of_row(form: Annotated[FormData, Depends(_form_of)]) -> HTMLResponse:
            try:
                row = {name: _cell(name, form.get(str(name)), kind) for name, kind in kinds.items()}
            except HTTPException as refused:
                return page(error=refused.detail)
            return page(row)

    elif modality.has_tokens:

        @app.post("/predict")
        def predict_text(body: Text) -> Answer:
            return predict(body.text)

        @app.post("/", response_class=HTMLResponse)
        def page_of_text(text: str = Form()) -> HTMLResponse:
            return page(text) if text.strip() else page(error=nothing)

    else:

        @app.post("/predict")
        def predict_image(file: UploadFile) -> Answer:
            return predict(file.file.read())

        @app.post("/", response_class=HTMLResponse)
        def page_of_image(file: UploadFile) -> HTMLResponse:
            return page(file.file.read(), file.filename or "")

    return app


async def _form_of(request: Request) -> AsyncIterator[FormData]:
    async with request.form() as form:  # which closes its files
        yield form


def _field(kind: str) -> str:
    """Return how a cell of a column is sent: a data URI, words, a category or a number."""
    if kind in (NUMBER, CATEGORY):
        return kind
    return "data URI" if get_modality(kind).takes_files else "words"


def _cell(name: Any, field: Any, kind: str) -> Any:
    """Return the cell of a field of a form; None where it is empty."""
    is_file = _field(kind) == "data URI"
    if field and isinstance(field, str) == is_file:  # a text would be the name of a file, or a URL
        raise HTTPException(422, f"{name}: {'choose a file' if is_file else 'write a text'}.")
    if not isinstance(field, str | None):
        return field.file.read() or None
    return _number(field, kind) if field else None


def _number(cell: Any, kind: str) -> Any:
    """Return the number that a text in a column of numbers is, as in a CSV file, else the cell."""
    if kind != NUMBER or not isinstance(cell, str):
        return cell
    from pandas import Series

    return as_numbers(Series([cell], dtype=object)).iloc[0]


def _as_json(predicted: Prediction) -> Answer:
    if predicted.probabilities is None:
        return Answer(prediction=predicted.value)
    by_class = {str(name): p for name, p in predicted.probabilities}
    return Answer(prediction=predicted.value, probabilities=by_class)


def _explanation(estimator: Any, X: Any) -> Shown | None:
    """Return what a prediction depends on; None where that cannot be computed."""
    try:
        return show_saliency(saliency(estimator, X), 0)
    except (AttributeError, TypeError, ValueError):
        return None


class _LimitBody:
    """End a request with the status 413 if it is too large, 408 if it arrives too slowly.

    That is, if there are more ``seconds`` from its first to its last part.
    """

    def __init__(self, app: Any, max_bytes: int, seconds: float):
        self.app = app
        self.max_bytes, self.seconds = max_bytes, seconds

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        n_bytes = 0
        is_whole = False
        end = asyncio.get_running_loop().time() + self.seconds

        async def receive_some() -> Any:
            nonlocal n_bytes, is_whole
            if is_whole:  # what comes now is that the client leaves
                return await receive()
            try:
                async with asyncio.timeout_at(end):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(
                    408, f"A request arrives within {self.seconds:g} seconds."
                ) from None
            is_whole = not message.get("more_body", False)
            n_bytes += len(message.get("body", b""))
            if n_bytes > self.max_bytes:
                raise HTTPException(413, f"A request has at most {self.max_bytes:,} bytes.")
            return message

        await self.app(scope, receive_some, send)

"""The HTTP service of one run: `/predict`, `/health`, `/metrics`, and its description as OpenAPI.

from graft import create_app, load

app = create_app(load("RUN"))        # any ASGI server runs it: uvicorn, hypercorn, a bigger FastAPI app
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, create_model

from graft import __version__
from graft.recipes.inference import batch_tokens
from graft.recipes.run import LoadedRun, refuse_language_model
from graft.recipes.serving_batches import Batcher, Overloaded, Stopped
from graft.recipes.serving_limits import BodyLimit, Limits
from graft.recipes.serving_measures import CONTENT_TYPE, Measures

Texts = tuple[str, ...]


def _sayable(text: str) -> str:
    """Refuse half of a surrogate pair, which JSON can spell and no tokenizer reads."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("holds half of a surrogate pair (\\ud800 to \\udfff); remove it") from None
    return text


Text = Annotated[str, AfterValidator(_sayable)]


class Pair(BaseModel):
    """Two texts that are judged together."""

    model_config = ConfigDict(extra="forbid")

    text: Text
    """The first of them."""

    text_pair: Text
    """The second."""


class Answer(BaseModel):
    """What the model says of one example."""

    prediction: str | float
    """The class's name, or the score."""

    probabilities: dict[str, float] | None = None
    """Of every class; absent for a score."""


class Answers(BaseModel):
    """Predictions in the order of the inputs."""

    predictions: list[Answer]
    """One for each input."""


class Health(BaseModel):
    """What is served."""

    status: str = "ok"
    """`ok`."""

    run: str
    """Name of the run's folder."""

    task: str
    """The task that it was trained on."""

    method: str
    """The method that adapted it."""

    columns: list[str]
    """The task's text columns: one, or two for pairs."""

    classes: list[str]
    """Names of the classes; none for scores."""


def create_app(loaded: LoadedRun, limits: Limits | None = None) -> FastAPI:
    """Make the service of a run.

    One thread owns the model; it starts and ends with the app's lifespan, and answers what is under way before it
    ends.

    Args:
        loaded: A run, such as `graft.load` gives; `graft.recipes.inference.ready` gives one that is merged and on the
            accelerator.
        limits: Bounds; none means the defaults.

    Returns:
        The app.

    Raises:
        RunError: The run is a language model, which predicts no class and no score.
    """
    refuse_language_model(loaded.folder, loaded.record)
    bounds, measures = limits or Limits(), Measures()

    def answer(texts: list[Texts]) -> list[Answer]:
        encoded = loaded.encode(texts)
        measures.batches.observe(len(texts))
        measures.truncated.inc(encoded.truncated)
        return [
            Answer(prediction=found.value, probabilities=found.probabilities or None)
            for found in loaded.judge(encoded, batch_tokens(loaded))
        ]

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        batcher = Batcher(answer, together=bounds.batch, patience=bounds.patience, waiting=bounds.waiting)
        measures.waiting.set_function(lambda: batcher.waiting)
        app.state.batcher = batcher
        try:
            yield
        finally:
            await asyncio.to_thread(batcher.stop)

    app = FastAPI(
        title=f"graft serve: {loaded.folder.name}",
        version=__version__,
        description="Predictions of a run that `graft train` made.",
        lifespan=lifespan,
    )
    app.add_middleware(BodyLimit, limits=bounds, refused=measures.count)
    _add_refusals(app, measures)
    _add_predict(app, loaded, bounds, measures)
    _add_looks(app, loaded, measures)
    return app


def _body(pairs: bool) -> type[BaseModel]:
    """What a request holds, by the task."""
    one: Any = Pair if pairs else Text
    many = Annotated[list[one], Field(min_length=1)]
    what = "pairs of texts" if pairs else "texts"
    example: Any = {"text": "The first one.", "text_pair": "The second one."} if pairs else "A text."
    field = Field(description=f"One or several {what}.", examples=[[example, example]])
    return create_model(
        "Inputs", __config__=ConfigDict(extra="forbid"), __doc__=f"Any number of {what}.", inputs=(one | many, field)
    )


def _add_predict(app: FastAPI, loaded: LoadedRun, bounds: Limits, measures: Measures) -> None:
    body: Any = _body(len(loaded.columns) == 2)

    @app.post(
        "/predict",
        response_model_exclude_none=True,
        responses={
            413: {"description": f"More than {bounds.batch} inputs or {bounds.size} bytes."},
            503: {"description": "Too many wait; try again after Retry-After seconds."},
        },
    )
    async def predict(request: body) -> Answers:
        """Say which class each input has, or which score."""
        started = time.perf_counter()
        inputs = request.inputs if isinstance(request.inputs, list) else [request.inputs]
        if len(inputs) > bounds.batch:
            raise _Refusal(413, f"{len(inputs)} inputs; send {bounds.batch} at once, or fewer")
        texts = [(found.text, found.text_pair) if isinstance(found, Pair) else (found,) for found in inputs]
        try:
            with measures.in_progress.track_inprogress():
                answers = await asyncio.wrap_future(app.state.batcher.submit(texts))
        except Overloaded:
            raise _Refusal(503, "too many requests wait; try again") from None
        except Stopped:
            raise _Refusal(503, "the service is stopping") from None
        measures.count(200)
        measures.examples.inc(len(answers))
        measures.seconds.observe(time.perf_counter() - started)
        return Answers(predictions=answers)


def _add_looks(app: FastAPI, loaded: LoadedRun, measures: Measures) -> None:
    health = Health(
        run=loaded.folder.resolve().name,
        task=loaded.recipe.task.name,
        method=loaded.recipe.method.name,
        columns=list(loaded.columns),
        classes=list(loaded.record.data.label_names),
    )

    @app.get("/health")
    async def look() -> Health:
        """Say that the service answers, and what it serves."""
        return health

    @app.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """Counts and latencies, in Prometheus' text format."""
        return Response(measures.text(), media_type=CONTENT_TYPE)


class _Refusal(Exception):  # noqa: N818 (no defect of ours)
    """A request that is not answered."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


def _add_refusals(app: FastAPI, measures: Measures) -> None:
    """Count refusals, and word those of malformed requests without repeating what was sent."""

    @app.exception_handler(_Refusal)
    async def refuse(_request: Request, refusal: _Refusal) -> JSONResponse:
        measures.count(refusal.status)
        headers = {"Retry-After": "1"} if refusal.status == 503 else {}
        return JSONResponse({"detail": refusal.detail}, refusal.status, headers)

    @app.exception_handler(RequestValidationError)
    async def malformed(_request: Request, error: RequestValidationError) -> JSONResponse:
        measures.count(422)
        found = [{"where": list(item["loc"]), "what": item["msg"]} for item in error.errors()]
        return JSONResponse({"detail": found}, 422)

    @app.exception_handler(400)
    async def unreadable(_request: Request, _error: Exception) -> JSONResponse:
        measures.count(422)  # FastAPI's own word for a body that is not UTF-8 is 400
        return JSONResponse({"detail": [{"where": ["body"], "what": "cannot be read as JSON in UTF-8"}]}, 422)

    @app.exception_handler(Exception)
    async def broken(_request: Request, _error: Exception) -> JSONResponse:
        measures.count(500)
        return JSONResponse({"detail": "a defect of the service; its log has the stack trace"}, 500)

"""The one place where the parts meet: `create_app(settings)`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI
from fastapi.responses import RedirectResponse
from fastapi_offline import FastAPIOffline

from ml_service.backend.documented import describe
from ml_service.backend.door import Door
from ml_service.backend.errors import add_error_handlers
from ml_service.backend.http_metrics import measure
from ml_service.backend.in_flight import CountRequests, InFlight
from ml_service.backend.intakes import Intakes
from ml_service.backend.judgements import Judgements
from ml_service.backend.keyring import Keyring
from ml_service.backend.middleware import AnswerBugs, BodyLimit, CancelOnDisconnect, GiveBack, RequestId
from ml_service.backend.observed import RequestLines, access_log_share, server_spans
from ml_service.backend.page_process import PageProcess
from ml_service.backend.page_proxy import PATH as PAGE_PATH
from ml_service.backend.page_proxy import PageProxy
from ml_service.backend.rate_limits import RateLimits
from ml_service.backend.request_sampler import RequestSampler
from ml_service.backend.routes import (
    data,
    deployments,
    evaluate,
    experiments,
    feedback,
    forward,
    forward_batch,
    health,
    metadata,
    openai,
)
from ml_service.common.settings import Settings
from ml_service.data.api_keys import ApiKeys
from ml_service.data.database import Database
from ml_service.data.jobs import Jobs
from ml_service.data.request_log import RequestLog
from ml_service.inference.handles import Live
from ml_service.inference.image_reader import ImageReader
from ml_service.pipeline.replica import Replica
from ml_service.pipeline.store_watch import StoreWatch
from ml_service.pipeline.supervisor import Supervisor
from ml_service.utils.recent import Recent
from ml_service.utils.telemetry import Telemetry

DESCRIPTION = """The language model that a team owns.

Errors are `application/problem+json`; every answer carries `X-Request-ID`. Try `POST /forward` below.
"""


def create_app(settings: Settings, live: Live | None = None, telemetry: Telemetry | None = None) -> FastAPI:
    """Make the app. Where `live` holds a model already it answers; else the deployed one is opened at start.

    The start raises BundleRefused where there is none that can be trusted.
    """
    live, telemetry = live or Live(), telemetry or Telemetry()
    database = Database(settings.database_address, settings.store, settings.database_timeout_s)
    replica = Replica(database, settings, live, telemetry)
    sampler = RequestSampler(RequestLog(database, settings.request_log_days), settings)
    live.watch = sampler.note if settings.request_log_share > 0 else None
    supervisor = Supervisor(Jobs(database), settings)
    intakes = Intakes(settings, database, telemetry)
    judgements = Judgements(database, settings, live, supervisor)
    image_reader = ImageReader(settings, telemetry)
    recent, store_watch = Recent(telemetry.registry), StoreWatch(database, settings.store, telemetry)
    given = settings.api_key.get_secret_value() if settings.api_key is not None else None
    keyring = Keyring(given, ApiKeys(database)) if settings.keys_are_on else None
    page = PageProcess(settings)
    page_proxy = PageProxy(page)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await asyncio.to_thread(replica.open_at_start)
        telemetry.watch_step_age(live.last_step_age_s)
        async with (
            replica.following(),
            supervisor.running(),
            sampler.writing(),
            intakes.running(),
            judgements.running(),
            image_reader.running(),
            recent.sampling(),
            store_watch.watching(),
            page.running(),
        ):
            yield
        await page_proxy.close()
        await asyncio.to_thread(live.close)
        database.close()

    app: FastAPI = FastAPIOffline(
        title="ml_service",
        description=DESCRIPTION,
        version=version("ml-service"),
        lifespan=lifespan,
        openapi_tags=[{"name": name} for name in ("inference", "openai", "learning", "operations")],
        redoc_url=None,
        static_url="/docs/static",
        telemetry=server_spans(),
    )
    app.state.keys_are_on = settings.keys_are_on
    app.state.settings, app.state.live, app.state.telemetry = settings, live, telemetry
    app.state.database, app.state.supervisor, app.state.replica = database, supervisor, replica
    app.state.sampler, app.state.recent, app.state.store_watch = sampler, recent, store_watch
    app.state.intakes, app.state.image_reader, app.state.judgements = intakes, image_reader, judgements
    add_error_handlers(app)
    for router in (  # routes are tried in their order, so the busiest come first
        forward.router, forward_batch.router, openai.router, openai.posts, metadata.router, experiments.router,
        experiments.posts, experiments.changes, feedback.router, feedback.posts, feedback.exports, deployments.reading,
        deployments.changes, data.router, evaluate.router, forward.forms, forward_batch.forms, health.figures,
        health.router,
    ):  # fmt: skip
        app.include_router(router)
    describe(app)
    app.add_api_route("/", lambda: RedirectResponse("/ui/" if settings.page else "/docs"), include_in_schema=False)
    if settings.page:
        app.mount(PAGE_PATH, page_proxy)
    app.add_middleware(CancelOnDisconnect)
    files = data.UPLOAD_PATH, evaluate.UPLOAD_PATH, forward_batch.PATH, f"{PAGE_PATH}/"
    uploads = dict.fromkeys(files, settings.max_upload_bytes)
    # Base64 takes a third more than the picture, and its line ends where it has some.
    pictures = dict.fromkeys(
        (forward.PATH, openai.CHAT_PATH), settings.max_body_bytes + settings.max_image_bytes * 7 // 5
    )
    app.add_middleware(BodyLimit, max_body_bytes=settings.max_body_bytes, uploads=uploads, pictures=pictures)
    app.state.in_flight = InFlight()
    app.add_middleware(
        Door, keyring=keyring, limits=RateLimits(settings.rate), telemetry=telemetry, expect_place=live.expect_place
    )
    app.add_middleware(CountRequests, in_flight=app.state.in_flight, live=live)
    measure(app, telemetry)  # outside of them, so that what they refuse or cut is counted
    app.add_middleware(GiveBack, live=live)
    app.add_middleware(AnswerBugs)
    if (share := access_log_share(settings)) > 0:
        app.add_middleware(RequestLines, share=share)
    app.add_middleware(RequestId)  # the last one added is the first to see a request
    return app

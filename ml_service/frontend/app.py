"""The page as an app: its pages, its theme, and what a browser may load: nothing from anywhere else."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import aiohttp
from fastapi import FastAPI, Request
from fastapi.responses import RedirectResponse, Response
from nicegui import Client, app, ui
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ml_service.frontend import health
from ml_service.frontend.datasets import page as datasets
from ml_service.frontend.deployments import page as deployments
from ml_service.frontend.experiments import comparison
from ml_service.frontend.experiments import one as experiment
from ml_service.frontend.experiments import page as experiments
from ml_service.frontend.feeds import Feeds
from ml_service.frontend.frame import ASSETS, frame
from ml_service.frontend.judging import page as judging
from ml_service.frontend.passing import passages
from ml_service.frontend.playground import page as playground
from ml_service.frontend.visit import KEY_COOKIE, Service, Visit
from ml_service.utils.logs import request_id

PREFIX = "/ui"
_YEAR_S = 365 * 24 * 3600
_RECONNECT_S = 30.0
"""So long a browser may be gone (a laptop that sleeps, a proxy that restarts) and go on with its page."""
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' ws: wss:; frame-ancestors 'none'; "
    "form-action 'self'; base-uri 'self'; object-src 'none'"
)
"""The page's framework compiles its templates in the browser, which is `unsafe-eval`; hosts are only our own."""
Build = Callable[[Visit], Awaitable[None] | None]


def create_page(backend: str, grafana: str | None = None, address: str | None = None) -> FastAPI:
    """The app that a browser sees at `/ui`; `backend` is where it finds the service, `address` where browsers do.

    Without `address` browsers find the service where they find the page.
    """
    services: list[Service] = []

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector) as session:
            services[:] = [Service(session, backend, Feeds(), grafana, address)]
            yield

    page = FastAPI(lifespan=lifespan, openapi_url=None)
    page.add_api_route("/", lambda: RedirectResponse(f"{PREFIX}/"), include_in_schema=False)
    page.add_api_route("/health", lambda: {"status": "ok"}, include_in_schema=False)
    page.add_middleware(_OnlyOurs)
    page.add_middleware(_Known)
    app.add_static_files("/assets", ASSETS, max_cache_age=_YEAR_S)
    app.add_api_route("/key", _keep_key, methods=["POST"])
    app.include_router(passages(lambda: services[0]))
    for path, title, build in (
        ("/", "Playground", playground.build),
        ("/experiments", "Experiments", experiments.build),
        ("/experiments/compare", "Compare", comparison.build),
        ("/experiments/{experiment_id}", "Experiment", experiment.build),
        ("/data", "Data", datasets.build),
        ("/deployments", "Deployments", deployments.build),
        ("/evaluate", "Evaluate", judging.build),
        ("/health", "Health", health.build),
    ):
        _add_page(services, path, title, build)
    ui.run_with(
        page,
        mount_path=PREFIX,
        title="ml_service",
        favicon=ASSETS / "icon.svg",
        language="en-US",
        tailwind=False,
        reconnect_timeout=_RECONNECT_S,
        binding_refresh_interval=None,
        show_welcome_message=False,
    )
    return page


def _add_page(services: list[Service], path: str, title: str, build: Build) -> None:
    @ui.page(path, title=f"{title} · ml_service")
    async def shown(request: Request, client: Client) -> None:
        visit = Visit(services[0], request, client)
        with frame(visit, path):
            building = build(visit)
            if building is not None:
                await building
        await visit.settled()


async def _keep_key(request: Request) -> Response:
    """Keep the key where no script of a page can read it; only this browser session has it."""
    key = (await request.body()).decode("latin-1").strip()
    response = Response(status_code=204)
    is_secure = request.url.scheme == "https"
    if key:
        response.set_cookie(KEY_COOKIE, key, httponly=True, samesite="strict", path=PREFIX, secure=is_secure)
    else:
        response.delete_cookie(KEY_COOKIE, path=PREFIX)
    return response


class _Known:
    """Lines that are written for a request carry the id that the service gave it."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (given := Headers(scope=scope).get("x-request-id")):
            request_id.set(given)  # the context is this request's own
        await self.app(scope, receive, send)


class _OnlyOurs:
    """Tells the browser to load nothing from another host."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["Content-Security-Policy"] = _POLICY
                headers["X-Content-Type-Options"] = "nosniff"
                headers["Referrer-Policy"] = "same-origin"
            await send(message)

        await self.app(scope, receive, send_with_policy)

"""Who looks at a page: with which key and theme, and whether the page can be seen."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from fastapi import Request
from nicegui import Client

from ml_service.frontend.api import Api
from ml_service.frontend.feeds import Feeds, Pace, Snapshot, Subscriber
from ml_service.frontend.streams import Listener, Streams

KEY_COOKIE, THEME_COOKIE = "ml_service_key", "ml_service_theme"
_SETTLE_S = 0.5
"""So long a page waits for what it shows before it is sent with places for it."""


@dataclass(frozen=True)
class Service:
    """What all visits share."""

    session: aiohttp.ClientSession
    backend: str
    feeds: Feeds
    grafana: str | None = None
    """Where dashboards are, if anywhere."""
    address: str | None = None
    """Of the service as browsers know it; None where it is the page's own, with the page under its `/ui`."""
    streams: Streams = field(default_factory=Streams)


class Visit:
    """One open page."""

    def __init__(self, service: Service, request: Request, client: Client) -> None:
        self.service, self.client = service, client
        self.path: Mapping[str, str] = request.path_params
        self.query: Mapping[str, str] = request.query_params
        self.api = Api(service.session, service.backend, request.cookies.get(KEY_COOKIE))
        self.is_dark = {"dark": True, "light": False}.get(request.cookies.get(THEME_COOKIE, ""))
        """None where the browser decides."""
        self.address = service.address or str(request.base_url).rstrip("/").removesuffix("/ui")
        """As the browser knows the service, for what people copy."""
        self.is_visible = True
        self._firsts: list[asyncio.Event] = []

    def wait_for(self, first: asyncio.Event) -> None:
        """Something that the page would rather have when it is sent."""
        self._firsts.append(first)

    async def settled(self) -> None:
        """Until everything is there, for half a second at most."""
        try:
            async with asyncio.timeout(_SETTLE_S):
                for first in self._firsts:
                    await first.wait()
        except TimeoutError:
            return

    def follow(self, path: str, every_s: Pace, tell: Callable[[Snapshot], None]) -> Callable[[], None]:
        """Tell what a route answers, for as long as the page is there; calling what this returns ends it before."""

        def told(snapshot: Snapshot) -> None:
            if not self.client.is_deleted:
                tell(snapshot)

        end = self.service.feeds.subscribe(self.api, path, every_s, Subscriber(told, lambda: self.is_visible))
        self.client.on_delete(end)
        return end

    def listen(self, path: str, tell: Callable[[str, Any], None]) -> Callable[[], None]:
        """Tell the events of a route, likewise."""

        def told(name: str, data: Any) -> None:
            if not self.client.is_deleted:
                tell(name, data)

        end = self.service.streams.listen(self.api, path, Listener(told, lambda: self.is_visible))
        self.client.on_delete(end)
        return end

    def refresh(self, prefix: str) -> None:
        """What begins so has been changed: ask again now."""
        self.service.feeds.refresh(self.api, prefix)

    def seen(self, is_visible: bool) -> None:
        """The browser says whether the page can be seen."""
        self.is_visible = is_visible
        if is_visible:
            self.service.feeds.wake()

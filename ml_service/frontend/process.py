"""The page as a process: beside a server that started it (`python -m … DESCRIPTOR BACKEND`), or by itself."""

from __future__ import annotations

import os
import sys
from typing import Any

import uvicorn

from lib.processes import end_with_parent
from ml_service.frontend.app import create_page
from ml_service.utils.handing_on import in_child

_NICENESS = 5
_GRACE_S = 2


def serve(backend: str, grafana: str | None = None, address: str | None = None, **where: Any) -> None:
    """Serve until a signal comes; `where` is uvicorn's `host` and `port`, or `fd`. See `create_page`."""
    page = create_page(backend, grafana, address)
    config = uvicorn.Config(
        page,
        log_config=None,  # as the server's lines look, or as Python's own
        log_level="warning",
        forwarded_allow_ips="*",
        server_header=False,
        date_header="fd" not in where,  # the server that passes it on gives one
        timeout_graceful_shutdown=_GRACE_S,
        ws="websockets-sansio",
        ws_per_message_deflate=False,
        **where,
    )
    uvicorn.Server(config).run()


def main() -> None:
    """Serve on a socket that the server listens on already, and end when it does."""
    end_with_parent()
    in_child(traces=False)
    os.nice(_NICENESS)  # an answer goes before a picture of it
    serve(sys.argv[2], sys.argv[3] if len(sys.argv) > 3 else None, fd=int(sys.argv[1]))


if __name__ == "__main__":
    main()

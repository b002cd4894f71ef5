"""`ml-service page`: the web page as a process of its own."""

from __future__ import annotations

from typing import Annotated

import typer


def page(
    backend: Annotated[str, typer.Option(help="Address of the service that it shows.")] = "http://127.0.0.1:8000",
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8080,
    address: Annotated[
        str | None, typer.Option(help="Address of the service as browsers know it, for what they copy; BACKEND's own.")
    ] = None,
    same_origin: Annotated[
        bool,
        typer.Option("--same-origin", help="Browsers find the service where they find the page: one proxy for both."),
    ] = False,
    grafana: Annotated[str | None, typer.Option(help="Address of Grafana, as browsers know it; linked to.")] = None,
) -> None:
    """Serve the web page alone, at http://HOST:PORT/ui; `ml-service serve` has it with it.

    The page asks the service as any client does: with the key that its user enters, where keys are on.
    Example: ml-service page --backend http://models:8000 --port 8080
    """
    from ml_service.frontend.process import serve
    from ml_service.utils.logs import EventLogger, configure_early, in_json

    configure_early("page")
    if in_json():
        EventLogger("page").info("page.listening", backend=backend, host=host, port=port)
    else:
        typer.echo(f"the page of {backend} is at http://{host}:{port}/ui", err=True)
    known_as = None if same_origin else (address or backend).rstrip("/")
    serve(backend, grafana, known_as, host=host, port=port)

"""The verbs `keys create`, `keys list` and `keys revoke`: who may ask the service, and for what."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from ml_service.cli_store import actor, opened_store
from ml_service.common.rates import Rate
from ml_service.common.scopes import MEANINGS, SCOPES

_UNITS = {"m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_MOST_SECONDS = 100 * 365 * 86400
_SCOPES = "\n".join(f"  {name:<8}{meaning}" for name, meaning in MEANINGS.items())
keys_app = typer.Typer(
    help="Keys with which clients ask the service: what is made or revoked holds within seconds, in every process.",
    no_args_is_help=True,
)


@keys_app.command(
    "create",
    help=f"""Make a key and print it: the only time that it can be seen, only its hash is kept.

Every key may read how things stand: experiments, deployments, metadata, metrics. Scopes let it do more:

\b
{_SCOPES}

Where the service listens beyond this machine, or ML_SERVICE_KEYS is `required`, requests want a key:

\b
  KEY=$(ml-service keys create my-app --scope infer --expires 90d)
  curl -H "Authorization: Bearer $KEY" -H "Content-Type: application/json" \\
       -d '{{"text": "def "}}' http://127.0.0.1:8000/forward

To rotate one, make its successor under another name, give that to the client, and revoke the old one.""",
)
def create(
    name: Annotated[str, typer.Argument(help="Who it is for; the audit log calls by this name what is done with it.")],
    scope: Annotated[list[str], typer.Option(metavar="|".join(SCOPES), help="What it may do; repeatable.")],
    expires: Annotated[
        str | None, typer.Option(help="After this time (12h, 90d, 52w) it opens nothing; never where not given.")
    ] = None,
    rate: Annotated[
        str | None, typer.Option(help="Its own limit, such as 600/minute, in place of ML_SERVICE_RATE_LIMIT.")
    ] = None,
) -> None:
    from ml_service.data.api_keys import ApiKeys

    until = datetime.now(UTC) + duration(expires) if expires is not None else None
    own_rate = Rate.parse(rate) if rate is not None else None
    with opened_store() as (_, database):
        made = ApiKeys(database).create(name, scope, actor(), until, own_rate)
    end = f"until {until:%Y-%m-%d %H:%M} UTC" if until is not None else "until it is revoked"
    held = ", ".join(made.kept.scopes)
    typer.echo(f"{name} may {held}, {end}. This is the only time that its key is shown:", err=True)
    typer.echo(made.secret)


@keys_app.command("list")
def list_() -> None:
    """Print all keys that there are or were; of the keys themselves only how they begin."""
    from ml_service.data.api_keys import ApiKeys
    from ml_service.data.database import now

    moment = now()
    with opened_store() as (_, database):
        kept = ApiKeys(database).all()
    typer.echo(f"{'name':<24}{'begins':<16}{'scopes':<28}{'rate':<14}{'made':<18}state")
    for key in kept:
        if key.revoked is not None:
            state = f"revoked {key.revoked:%Y-%m-%d %H:%M}"
        elif key.expires is None:
            state = "valid"
        else:
            state = f"{'valid until' if key.expires > moment else 'expired'} {key.expires:%Y-%m-%d %H:%M}"
        typer.echo(
            f"{key.name:<24}{key.prefix + '…':<16}{','.join(key.scopes):<28}{key.rate or '':<14}"
            f"{key.created:%Y-%m-%d %H:%M}  {state}"
        )


@keys_app.command("revoke")
def revoke(name: Annotated[str, typer.Argument(help="As `ml-service keys list` shows it.")]) -> None:
    """Let a key open nothing any more, for good; servers that run follow within five seconds."""
    from ml_service.data.api_keys import ApiKeys

    with opened_store() as (_, database):
        was_valid = ApiKeys(database).revoke(name, actor())
    typer.echo(f"{name} is revoked" if was_valid else f"{name} had been revoked before")


def duration(text: str) -> timedelta:
    """`90d` and the like. Raises ValueError."""
    found = re.fullmatch(r"([1-9]\d{0,8})([mhdw])", text.strip())
    if found is None or (seconds := int(found[1]) * _UNITS[found[2]]) > _MOST_SECONDS:
        raise ValueError(f"--expires {text!r}: write a number with m, h, d or w behind it, such as 90d")
    return timedelta(seconds=seconds)

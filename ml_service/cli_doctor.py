"""The verb `doctor`: is everything here that the service needs, and what is to be done where it is not."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ml_service.pipeline.doctor.finding import Finding

_SHOWN = {"ok": "ok", "warn": "warn", "fail": "FAIL"}
_COLOURS = {"ok": typer.colors.GREEN, "warn": typer.colors.YELLOW, "fail": typer.colors.RED}
_INDENT = " " * 19


def doctor(as_json: Annotated[bool, typer.Option("--json", help="One JSON document, for machines.")] = False) -> None:
    """Look at database, disk, model, versions, port, memory, GPU and settings, and say what to do.

    It changes nothing, takes ten seconds at most, and ends with 1 where something FAILs.
    """
    from ml_service.pipeline.doctor.settings_check import read_settings
    from ml_service.pipeline.doctor.visit import visit

    settings, findings = read_settings()
    if not as_json:
        for finding in findings:
            _tell(finding)
    for finding in visit(settings):
        findings.append(finding)
        if not as_json:
            _tell(finding)
    failed = sum(finding.verdict == "fail" for finding in findings)
    warned = sum(finding.verdict == "warn" for finding in findings)
    if as_json:
        told = {"ok": not failed, "failed": failed, "warned": warned, "findings": [f.as_dict() for f in findings]}
        typer.echo(json.dumps(told, indent=2, ensure_ascii=False))
    else:
        typer.echo(f"{len(findings)} looked at, {warned} to look at, {failed} FAIL")
    sys.stdout.flush()
    os._exit(1 if failed else 0)  # what hangs is not waited for


def _tell(finding: Finding) -> None:
    mark = typer.style(f"{_SHOWN[finding.verdict]:<5}", fg=_COLOURS[finding.verdict], bold=finding.verdict == "fail")
    typer.echo(f"{mark} {finding.subject:<12} {finding.found}", color=sys.stdout.isatty())
    if finding.advice is not None:
        typer.echo(f"{_INDENT}-> {finding.advice}")

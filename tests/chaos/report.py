"""What a promise's script tells: its figures and what is broken, printed and kept as `build/chaos/NAME.json`."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from datetime import UTC, datetime
from typing import Any, NoReturn

from lib.provenance import current_commit
from ml_service.common.settings import PROJECT

RESULTS = PROJECT / "build" / "chaos"


class Report:
    """Of one script: figures in the order in which they come, and whatever is not as it was promised."""

    def __init__(self, name: str, *, is_quick: bool = False) -> None:
        self._name, self._is_quick, self._started = name, is_quick, time.monotonic()
        self.figures: dict[str, str] = {}
        self.broken: list[str] = []

    def figure(self, what: str, value: object) -> None:
        """Print a figure, as the table of results will say it."""
        self.figures[what] = str(value)
        print(f"{what:<44}{value}", flush=True)

    def step(self, what: str) -> None:
        """What is done now, for who waits for it."""
        print(f"… {time.monotonic() - self._started:4.0f} s  {what}", file=sys.stderr, flush=True)

    def expect(self, holds: bool, otherwise: str) -> bool:
        """A part of the promise, and what to say where it does not hold; whether it does."""
        if not holds:
            self.broken.append(otherwise)
            print(f"BROKEN: {otherwise}", flush=True)
        return holds

    def finish(self) -> NoReturn:
        """Keep the figures and exit: with 1 where the promise is broken."""
        RESULTS.mkdir(parents=True, exist_ok=True)
        kept: dict[str, Any] = {
            "name": self._name,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "commit": str(current_commit(PROJECT)),
            "processors": os.cpu_count(),
            "load_average_at_end": round(os.getloadavg()[0], 1),
            "seconds": round(time.monotonic() - self._started),
            "is_quick": self._is_quick,
            "figures": self.figures,
            "broken": self.broken,
        }
        path = RESULTS / f"{self._name}.json"
        path.write_text(json.dumps(kept, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        print(f"{'the promise holds' if not self.broken else 'the promise is BROKEN'}; {path.relative_to(PROJECT)}")
        raise SystemExit(1 if self.broken else 0)


def parser_of(description: str | None) -> argparse.ArgumentParser:
    """Every script knows `--quick`, a small part of it for tests; asked to end it ends all that it has started."""
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="a small part of it, in a minute or two")
    return parser

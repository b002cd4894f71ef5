"""All promises under attack, one after the other; with `--keep` the results become those of the README's table."""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
import time

from ml_service.common.settings import PROJECT
from tests.chaos.promises import PROMISES
from tests.chaos.table import keep, table


def main() -> None:
    """Run the scripts; exit with 1 where a promise is broken."""
    names = [promise.script for promise in PROMISES]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "scripts", nargs="*", metavar="SCRIPT", choices=[[], *names], help=f"some of {', '.join(names)}; all by default"
    )
    parser.add_argument("--quick", action="store_true", help="a small part of each")
    parser.add_argument("--keep", action="store_true", help="write tests/chaos/results/DATE.json and DATE.md")
    arguments = parser.parse_args()
    wanted = [each for each in PROMISES if each.script in (arguments.scripts or names)]
    broken = []
    for number, promise in enumerate(wanted, 1):
        print(f"\n[{number}/{len(wanted)}] promise {promise.number}, {promise.script}: {promise.sentence}", flush=True)
        if importlib.util.find_spec(f"tests.chaos.{promise.script}") is None:
            print("there is no such script")
            broken.append(promise.script)
            continue
        started = time.monotonic()
        command = [sys.executable, "-m", f"tests.chaos.{promise.script}", *(["--quick"] if arguments.quick else [])]
        if subprocess.run(command, cwd=PROJECT, check=False).returncode != 0:
            broken.append(promise.script)
        print(f"{time.monotonic() - started:.0f} s", flush=True)
    print(f"\n{table()}")
    if arguments.keep:
        print(f"kept in {keep()}")
    print(f"broken: {', '.join(broken)}" if broken else "all promises hold")
    raise SystemExit(1 if broken else 0)


if __name__ == "__main__":
    main()

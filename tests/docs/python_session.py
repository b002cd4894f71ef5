"""A Python that pages talk to: code blocks come as JSON lines, each is run in the same namespace; an error ends it."""

from __future__ import annotations

import json
import sys
import traceback
from typing import Any


def main() -> None:
    """Read `{"code": ..., "place": ...}`; answer `{"failed": null}` or the trace, on the stream that was stdout."""
    answers = open(int(sys.argv[1]), "w", encoding="utf-8")  # noqa: SIM115, PTH123 - kept for the process's life
    import httpx

    send = httpx.Client.send

    def send_and_look(client: httpx.Client, *given: Any, **options: Any) -> httpx.Response:
        """A refusal is an error, unless the page looks at the status itself."""
        answer = send(client, *given, **options)
        if answer.is_error and not looks_itself:
            answer.read()
            raise AssertionError(f"{answer.status_code} {answer.text}")
        return answer

    httpx.Client.send = send_and_look  # type: ignore[method-assign]
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for line in sys.stdin:
        asked = json.loads(line)
        looks_itself = "status_code" in asked["code"]
        failed = None
        try:
            exec(compile(asked["code"], asked["place"], "exec"), namespace)
        except BaseException:
            failed = traceback.format_exc()
        sys.stdout.flush()
        print(json.dumps({"failed": failed}), file=answers, flush=True)


if __name__ == "__main__":
    main()

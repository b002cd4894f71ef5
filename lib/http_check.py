"""A health check without curl: `python -m lib.http_check URL` ends with 0 where the answer is 200."""

from __future__ import annotations

import sys
import urllib.error
import urllib.request

_TIMEOUT_S = 4.0


def main() -> None:
    """Raises SystemExit with what was answered instead, in a sentence."""
    try:
        with urllib.request.urlopen(sys.argv[1], timeout=_TIMEOUT_S) as response:
            if response.status == 200:
                return
            raise SystemExit(f"answered {response.status}")
    except urllib.error.HTTPError as error:
        raise SystemExit(f"answered {error.code}: {error.read(500).decode('utf-8', 'replace')}") from error
    except OSError as error:
        raise SystemExit(f"does not answer: {error}") from error


if __name__ == "__main__":
    main()

"""How often each key, or each address, may ask: counted in this process, told in the answers' headers."""

from __future__ import annotations

import ipaddress
import math
import time
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from ml_service.common.rates import Rate

if TYPE_CHECKING:
    from limits.strategies import RateLimiter

_V6_NETWORK = 64
"""Who has an IPv6 address has 2 ** 64 of them."""


@dataclass(frozen=True)
class Standing:
    """How somebody stands after a request."""

    rate: Rate
    left: int
    resets_in_s: int
    is_over: bool
    """The request was one too many."""

    def headers(self) -> list[tuple[bytes, bytes]]:
        """As the IETF's draft has them (draft-ietf-httpapi-ratelimit-headers, 08 and later)."""
        return [
            (b"ratelimit-policy", b'"requests";q=%d;w=%d' % (self.rate.requests, self.rate.seconds)),
            (b"ratelimit", b'"requests";r=%d;t=%d' % (self.left, self.resets_in_s)),
        ]


class RateLimits:
    """Counts requests in windows that slide: at no time more than the rate, about, and no burst where two meet.

    What is not covered: other processes, each of which counts for itself, and what a request costs: one of a hundred
    prompts is one. Memory: two numbers for each who asked in the last two windows.
    """

    def __init__(self, default: Rate | None) -> None:
        self._default = default
        self._counter: RateLimiter | None = None

    @property
    def has_default(self) -> bool:
        """Whether somebody who has no rate of their own is counted."""
        return self._default is not None

    def count(self, who: str, own: Rate | None = None) -> Standing | None:
        """Count a request of somebody who may have a rate of their own; None where there is no limit."""
        rate = own or self._default
        if rate is None:
            return None
        from limits import RateLimitItemPerSecond  # a tenth of a second, for those who limit something

        if self._counter is None:
            self._counter = _counter()
        window = RateLimitItemPerSecond(rate.requests, rate.seconds)
        is_over = not self._counter.hit(window, who)
        resets_at, left = self._counter.get_window_stats(window, who)
        return Standing(rate, left, max(math.ceil(resets_at - time.time()), 1), is_over)


@lru_cache(maxsize=4096)
def name_of_address(host: str | None) -> str:
    """Under which an address is counted."""
    if host is None:
        return "address unknown"
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return f"address {host}"
    if address.version == 4:
        return f"address {host}"
    return f"network {ipaddress.ip_network((int(address), _V6_NETWORK), strict=False)}"


def _counter() -> RateLimiter:
    from limits.storage import MemoryStorage
    from limits.strategies import SlidingWindowCounterRateLimiter

    return SlidingWindowCounterRateLimiter(MemoryStorage())

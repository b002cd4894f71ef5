"""Rate limits: windows that slide, counted for each name; addresses of one IPv6 network count as one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ml_service.backend.rate_limits import RateLimits, name_of_address
from ml_service.common.rates import Rate

RATE = Rate(3, 86400)


def test_each_name_has_its_own_count() -> None:
    limits = RateLimits(RATE)
    for who in ("a", "b"):
        told = [limits.count(who) for _ in range(5)]
        assert [each.is_over for each in told if each] == [False, False, False, True, True]
        assert [each.left for each in told if each] == [2, 1, 0, 0, 0]
        assert all(0 < each.resets_in_s <= 2 * RATE.seconds for each in told if each)


def test_without_a_limit_nothing_is_counted_but_who_has_an_own() -> None:
    limits = RateLimits(None)
    assert limits.count("a") is None
    assert limits._counter is None
    own = [limits.count("b", RATE) for _ in range(4)]
    assert own[-1] is not None
    assert own[-1].is_over
    assert limits.count("a") is None


def test_headers_are_as_the_draft_has_them() -> None:
    standing = RateLimits(RATE).count("a")
    assert standing is not None
    told = dict(standing.headers())
    assert told[b"ratelimit-policy"] == b'"requests";q=3;w=86400'
    assert told[b"ratelimit"] == b'"requests";r=2;t=%d' % standing.resets_in_s


@given(st.ip_addresses(v=4))
def test_every_ipv4_address_is_somebody(address: object) -> None:
    assert name_of_address(str(address)) == f"address {address}"


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
def test_who_has_an_ipv6_network_is_one(network: int, first: int, second: int) -> None:
    from ipaddress import IPv6Address

    names = {name_of_address(str(IPv6Address((network << 64) + host))) for host in (first, second)}
    assert len(names) == 1


@given(st.one_of(st.none(), st.text(max_size=20)))
def test_an_address_that_is_none_has_a_name_too(host: str | None) -> None:
    assert name_of_address(host)

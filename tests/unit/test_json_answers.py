"""What an Accept-Encoding field allows (RFC 9110 section 12.5.3)."""

from __future__ import annotations

import pytest

from coordinator.api.answers import accepts_gzip


@pytest.mark.parametrize(
    "field",
    [
        "gzip",
        "GZIP",
        "br, gzip",
        " gzip ;\tq=0.001 , br",
        "gzip; Q=1.000",
        "*",
        "*;q=0.5, br;q=0",
        "gzip, *;q=0",
        "identity;q=0.5, gzip;q=0.5",
        "gzip;q=0.2, identity;q=0.1",
        ",,gzip,",
    ],
)
def test_gzip_is_accepted(field: str) -> None:
    assert accepts_gzip(field)


@pytest.mark.parametrize(
    "field",
    [
        "",
        "identity",
        "br",
        "gzip;q=0",
        "gzip; q=0.000",
        "gzip;q=0, *",
        "*;q=0",
        "identity, gzip;q=0.9",
        "not-gzip",
        "gzipped",
        "gzip;q=2",
        "gzip;q=-1",
        "gzip;q=0.0001",
        "gzip;level=9",
        "gzip;q",
        "gzip gzip",
        "gzip;q=²",
    ],
)
def test_gzip_is_not_accepted(field: str) -> None:
    assert not accepts_gzip(field)

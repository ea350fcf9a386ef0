"""JSON answers of the device API, in gzip for clients that take it: rosters repeat themselves.

Starlette's `GZipMiddleware` takes `gzip;q=0` for a wish and would have to be kept off all other routes.
No answer here holds a secret beside something that a stranger chose, so its length gives nothing away.

Not for files and ranges (`coordinator.api.files`), whose bytes are promised as they are.
"""

from __future__ import annotations

import gzip
import re
from typing import Any

from fastapi import Request, Response
from fastapi.responses import JSONResponse

GZIP_MIN = 300
"""Bytes; under this the two header fields of a compressed answer cost most of what it saves."""

_WEIGHTED = re.compile(
    r"([!#$%&'*+.^_`|~0-9A-Za-z-]+)(?:[ \t]*;[ \t]*[qQ]=(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?))?"
)


def json_answer(request: Request, value: Any, status: int = 200) -> Response:
    """`value` without spaces, in gzip if it is long and the request accepts that; always the same bytes."""
    plain = JSONResponse(value, status)
    body = bytes(plain.body)
    if len(body) < GZIP_MIN:
        return plain
    headers = {"Vary": "Accept-Encoding"}
    if accepts_gzip(",".join(request.headers.getlist("accept-encoding"))):
        headers["Content-Encoding"] = "gzip"
        body = gzip.compress(body, mtime=0)
    return Response(body, status, headers, media_type=plain.media_type)


def accepts_gzip(accept_encoding: str) -> bool:
    """Whether an Accept-Encoding field (RFC 9110 section 12.5.3) allows gzip and does not prefer identity.

    Items that are malformed are passed over.
    """
    weights: dict[str, float] = {}
    for item in accept_encoding.split(","):
        match = _WEIGHTED.fullmatch(item.strip(" \t"))
        if match is not None:
            weights[match[1].lower()] = float(match[2] or 1)
    weight = weights.get("gzip", weights.get("*", 0.0))
    return weight > 0 and weight >= weights.get("identity", 0.0)

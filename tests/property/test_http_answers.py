"""Whatever bytes a server sends: the right bytes, or `OriginError`, and nothing else."""

from __future__ import annotations

import trio
from hypothesis import example, given
from hypothesis import strategies as st

from p2p.adapters.channel import Channel
from p2p.adapters.http import HttpClient
from p2p.adapters.http_connection import Pace
from p2p.adapters.origin import HttpOrigin
from p2p.adapters.url import Url, parse_url
from p2p.content.digests import sha256
from p2p.errors import ConfigError, OriginError
from tests.support.scripted_http import head, partial

DATA = bytes(range(256)) * 8
START, STOP = 100, 1100
GOOD = partial(DATA, START, STOP)
CHUNKED = (
    head(206, content_range=f"bytes {START}-{STOP - 1}/*", transfer_encoding="chunked")
    + b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in (DATA[START:700], DATA[700:STOP]))
    + b"0\r\n\r\n"
)


class Played:
    """A channel that plays an answer in pieces of `step` bytes, then ends."""

    def __init__(self, answer: bytes, step: int) -> None:
        self._left = memoryview(answer)
        self._step = step
        self.bytes_received = 0
        self.bytes_sent = 0
        self.is_stale = False

    async def send(self, *_parts: object) -> None:
        return

    async def receive_into(self, buffer: memoryview) -> int:
        count = min(self._step, len(self._left), len(buffer))
        buffer[:count] = self._left[:count]
        self._left = self._left[count:]
        self.bytes_received += count
        return count

    async def aclose(self) -> None:
        return

    def probe(self, _on: bool) -> None:
        return


class PlayedClient(HttpClient):
    """Connects to an answer instead of a server."""

    def __init__(self, answer: bytes, step: int) -> None:
        super().__init__()
        self.answer, self.step = answer, step

    async def _connect(self, url: Url, pace: Pace) -> Channel:
        return Played(self.answer, self.step)


def read(answer: bytes, step: int) -> bytes | OriginError:
    async def main() -> bytes | OriginError:
        origin = HttpOrigin("http://origin/", PlayedClient(answer, step))
        try:
            async with origin.stream(sha256(DATA), START, STOP) as parts:
                return b"".join([bytes(part) async for part in parts])
        except OriginError as error:
            return error

    return trio.run(main)


@given(st.sampled_from([GOOD, CHUNKED]), st.integers(1, 5000))
def test_the_right_answer_is_right_however_it_is_cut(answer: bytes, step: int) -> None:
    assert read(answer, step) == DATA[START:STOP]


@given(
    st.sampled_from([GOOD, CHUNKED]),
    st.lists(st.tuples(st.integers(0, 1500), st.binary(max_size=6)), min_size=1, max_size=4),
    st.integers(1, 3000),
)
def test_a_changed_answer_gives_the_right_length_or_an_error(
    answer: bytes, changes: list[tuple[int, bytes]], step: int
) -> None:
    mutant = bytearray(answer)
    for position, replacement in changes:
        mutant[position : position + len(replacement)] = replacement
    result = read(bytes(mutant), step)
    assert isinstance(result, OriginError) or len(result) == STOP - START


@given(st.binary(max_size=400), st.integers(1, 400))
@example(
    b"HTTP/1.1 206 X\r\ncontent-range: bytes 100-1099/1\r\ntransfer-encoding: chunked\r\n\r\n" + b"f" * 99, 7
)
@example(b"HTTP/1.1 302 X\r\nlocation: http://[\r\n\r\n", 400)
@example(b"HTTP/1.1 206 X\r\ncontent-length: 1000, 1000\r\n\r\n", 400)
@example(b"HTTP/1.1 429 X\r\nretry-after: Mon, 99 Foo 0000 00:00:00 GMT\r\ndate: x\r\n\r\n", 400)
def test_any_answer_is_an_error_with_a_reason(answer: bytes, step: int) -> None:
    result = read(answer, step)
    assert isinstance(result, OriginError)
    assert result.reason


@given(st.text(max_size=60) | st.text("htps:/@[]#?%.0123456789ab", max_size=40).map(lambda t: "http://" + t))
def test_any_text_is_an_address_or_a_configuration_error(text: str) -> None:
    try:
        url = parse_url(text)
    except ConfigError:
        return
    assert parse_url(str(url)) == url
    assert "\r" not in url.target
    assert " " not in url.authority

"""The production trust client behind the command line that the public tuf-conformance suite drives.

    python -m p2p.cli.tuf_shim --metadata-dir DIR init ROOT
    python -m p2p.cli.tuf_shim --metadata-dir DIR --metadata-url URL refresh

The suite's CLIENT-CLI.md says what each command must do; exit codes are 0 and 1. Only the transport
is the shim's own: plain blocking HTTP, bounded in bytes and in seconds. Agents do not use it.
"""

from __future__ import annotations

import http.client
import io
import socket
import sys
import time
from pathlib import Path
from urllib.parse import quote, urlsplit

import click
from tuf.api.metadata import TargetFile

from p2p.adapters.durable import DirectoryBlobStore
from p2p.content import limits
from p2p.errors import ConfigError, OriginError, SlipstreamError, TrustError
from p2p.trust import Need, TrustClient, run
from p2p.trust.documents import check_meta, encode_name

REQUEST_S = 30.0
TARGET_SIZE_MAX = 64 * limits.MIB
_ABSENT = (403, 404)


class _DeadlineReader(io.RawIOBase):
    """Reads a socket until a moment of the monotonic clock, however slowly its bytes drip."""

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self._socket = sock
        self._deadline = deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # typeshed's buffer type has no name before 3.12
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the answer takes too long")
        self._socket.settimeout(left)
        return self._socket.recv_into(buffer)


class _Response(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, deadline: float) -> None:
        super().__init__(sock, method="GET")
        self.fp.close()
        self.fp = io.BufferedReader(_DeadlineReader(sock, deadline))


def fetch(url: str, size_max: int, *, seconds: float = REQUEST_S) -> bytes | None:
    """The body at `url`, None on 403 or 404.

    Raises `OriginError` (`unreachable`, `status`, `too-slow`, `too-long`, `truncated`): at most
    `size_max` bytes are read, and the whole request takes at most `seconds`.
    """
    parts = urlsplit(url)
    if parts.scheme != "http" or parts.hostname is None:
        raise ConfigError(f"{url}: only plain http is spoken here", next_step="give an http:// URL")
    deadline = time.monotonic() + seconds
    path = parts.path + (f"?{parts.query}" if parts.query else "")
    try:
        with socket.create_connection((parts.hostname, parts.port or 80), timeout=seconds) as sock:
            sock.sendall(
                f"GET {path} HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: close\r\n\r\n".encode("ascii")
            )
            response = _Response(sock, deadline)
            response.begin()
            if response.status in _ABSENT:
                return None
            if response.status != 200:
                raise OriginError("status", f"{url}: HTTP status {response.status}")
            body = response.read(size_max + 1)
    except TimeoutError as error:
        raise OriginError("too-slow", f"{url}: not answered within {seconds:.0f} s") from error
    except http.client.IncompleteRead as error:
        raise OriginError("truncated", f"{url}: {error}") from error
    except (OSError, http.client.HTTPException, UnicodeError) as error:
        raise OriginError("unreachable", f"{url}: {error}") from error
    if len(body) > size_max:
        raise OriginError("too-long", f"{url}: over {size_max} bytes")
    if response.length:
        raise OriginError("truncated", f"{url}: {response.length} bytes are missing")
    return body


class _Repository:
    """The one source of the suite: metadata below one URL, targets below another."""

    def __init__(self, metadata_url: str) -> None:
        self._url = metadata_url.rstrip("/")

    def __call__(self, need: Need) -> bytes | None:
        if need.error is not None:
            raise OriginError("exhausted", f"{need.name}: there is no other source", retry=False)
        data = fetch(f"{self._url}/{need.name}", need.size_max)
        if data is None and not (need.may_be_absent and need.role == "root"):
            raise OriginError("not-found", f"{need.name}: not in the repository", retry=False)
        return data


def _download(target: TargetFile, base_url: str, directory: Path) -> None:
    if target.length > TARGET_SIZE_MAX:
        raise TrustError("too-long", f"{target.path}: {target.length} bytes are over {TARGET_SIZE_MAX}")
    stored = directory / encode_name(target.path).replace(".", "%2E")
    if stored.exists() and _is_target(stored.read_bytes(), target):
        return
    folder, _, name = target.path.rpartition("/")
    digest = next(iter(target.hashes.values()))
    path = quote(f"{folder}/{digest}.{name}" if folder else f"{digest}.{name}")
    data = fetch(f"{base_url.rstrip('/')}/{path}", target.length)
    if data is None:
        raise OriginError("not-found", f"{target.path}: not in the repository")
    check_meta(data, target, target.path)
    partial = stored.with_name(f"{stored.name}.part")
    partial.write_bytes(data)
    partial.replace(stored)


def _is_target(data: bytes, target: TargetFile) -> bool:
    try:
        check_meta(data, target, target.path)
    except TrustError:
        return False
    return True


@click.group(help=__doc__)
@click.option("--metadata-dir", required=True, type=click.Path(path_type=Path, file_okay=False))
@click.option("--metadata-url", default="")
@click.option("--target-name", "target_names", multiple=True)
@click.option("--target-base-url", default="")
@click.option("--target-dir", type=click.Path(path_type=Path, file_okay=False))
@click.pass_context
def shim(
    context: click.Context,
    metadata_dir: Path,
    metadata_url: str,
    target_names: tuple[str, ...],
    target_base_url: str,
    target_dir: Path | None,
) -> None:
    context.obj = (metadata_dir, metadata_url, target_names, target_base_url, target_dir)


@shim.command()
@click.argument("trusted_root", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.pass_context
def init(context: click.Context, trusted_root: Path) -> None:
    """Keep TRUSTED_ROOT as the root to start from; no request is made."""
    metadata_dir: Path = context.obj[0]
    DirectoryBlobStore(metadata_dir).write("root.json", trusted_root.read_bytes())


@shim.command()
@click.pass_context
def refresh(context: click.Context) -> None:
    """Bring the top-level metadata up to date."""
    metadata_dir, metadata_url, *_ = context.obj
    client = TrustClient(DirectoryBlobStore(metadata_dir))
    run(client.refresh(time.time()), _Repository(metadata_url))


@shim.command()
@click.pass_context
def download(context: click.Context) -> None:
    """Refresh, then download each --target-name into --target-dir."""
    metadata_dir, metadata_url, target_names, target_base_url, target_dir = context.obj
    if target_dir is None:
        raise ConfigError("--target-dir is missing", next_step="name the directory to download into")
    client = TrustClient(DirectoryBlobStore(metadata_dir))
    source = _Repository(metadata_url)
    run(client.refresh(time.time()), source)
    for name in target_names:
        target = run(client.find_target(name), source)
        if target is None:
            raise TrustError("no-target", f"{name}: not in the repository")
        _download(target, target_base_url, target_dir)


def main() -> int:
    try:
        shim(standalone_mode=False)
    except SlipstreamError as error:
        reason = getattr(error, "reason", "")
        click.echo(f"{type(error).__name__} {reason}: {error.diagnostics()}", err=True)
        return 1
    except click.ClickException as error:
        error.show()
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What a site can do without Slipstream: curl, aria2 and libtorrent, each as good as its settings make it.

All fetch from the same nginx in the origin's namespace. The torrent is a v1 one (hybrid and v2 ones cost more
copies in every trial) with the origin as web seed and LAN discovery on; there is no tracker, as there is
none at a site. A device is done when its client says that the whole file is verified, and goes on seeding.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.rig.network import Namespace
from benchmarks.rig.processes import Child, Children, RigError, until

__all__ = ["RIVALS", "Rival", "make_torrent", "nginx"]

ORIGIN_PORT = 8080
PIECE_BYTES = 256 << 10
_READY_S = 10

_NGINX = """\
daemon off;
master_process off;
user root;
pid {directory}/nginx.pid;
error_log {directory}/nginx-error.log;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  sendfile on;
  tcp_nopush on;
  keepalive_timeout 65s;
  client_body_temp_path {directory}/body;
  proxy_temp_path {directory}/proxy;
  fastcgi_temp_path {directory}/fastcgi;
  uwsgi_temp_path {directory}/uwsgi;
  scgi_temp_path {directory}/scgi;
  server {{ listen {address}:{port}; root {root}; }}
}}
"""


@contextmanager
def nginx(children: Children, namespace: Namespace, root: Path, directory: Path) -> Iterator[str]:
    """A plain nginx that serves `root` in a namespace; yields its base URL once it accepts."""
    directory.mkdir(parents=True, exist_ok=True)
    configuration = directory / "nginx.conf"
    configuration.write_text(
        _NGINX.format(directory=directory, root=root, address=namespace.address, port=ORIGIN_PORT)
    )
    program = shutil.which("nginx") or "/usr/sbin/nginx"
    server = children.start("nginx", [program, "-c", configuration], prefix=namespace.prefix)
    try:
        pid = directory / "nginx.pid"  # written after its sockets listen
        until("nginx listening", lambda: pid.exists() and bool(pid.read_text()), _READY_S, alive=[server])
        yield f"http://{namespace.address}:{ORIGIN_PORT}"
    finally:
        children.stop([server])


def make_torrent(image: Path, url: str, piece_bytes: int = PIECE_BYTES) -> bytes:
    """A v1 torrent of one file with `url` as its web seed."""
    import libtorrent as lt

    files = lt.file_storage()
    files.add_file(image.name, image.stat().st_size)
    torrent = lt.create_torrent(files, piece_bytes, lt.create_torrent.v1_only)
    torrent.add_url_seed(url)
    lt.set_piece_hashes(torrent, str(image.parent))
    return bytes(lt.bencode(torrent.generate()))


@dataclass(frozen=True, slots=True)
class Rival:
    """One client and its settings; `program` must be there for it to take part."""

    name: str
    program: str
    options: Sequence[str] = ()
    settings: dict[str, object] = field(default_factory=dict)
    piece_bytes: int = PIECE_BYTES

    @property
    def needs_torrent(self) -> bool:
        return self.program != "curl"

    def missing(self) -> str | None:
        """What has to be installed first, or None."""
        if self.program == "libtorrent":
            try:
                import libtorrent  # noqa: F401 (only whether it is there)
            except ImportError:
                return "libtorrent (PyPI: pip install 'slipstream[bench]')"
            return None
        return None if shutil.which(self.program) else f"{self.program} (a Debian package)"

    def start(
        self, children: Children, device: Namespace, image: str, torrent: Path, url: str, directory: Path
    ) -> Child:
        """Start it on a device; it writes `directory/<image>` and then touches `directory/done`."""
        directory.mkdir(parents=True, exist_ok=True)
        done = directory / "done"
        hook = directory / "hook"
        hook.write_text(f"#!/bin/sh\n: > '{done}'\n")
        hook.chmod(0o755)
        command: list[str | Path]
        if self.program == "curl":
            fetch = f"curl -sSf -o '{directory / image}' '{url}' && exec '{hook}'"
            command = ["/bin/sh", "-c", fetch]
        elif self.program == "aria2c":
            command = [
                *("aria2c", f"--dir={directory}", "--no-conf", "--console-log-level=warn"),
                *("--summary-interval=0", "--enable-dht=false", "--enable-color=false"),
                *("--bt-enable-lpd=true", "--bt-lpd-interface=eth0", "--listen-port=6881"),
                *("--seed-ratio=0.0", f"--on-bt-download-complete={hook}", *self.options, torrent),
            ]
        elif self.program == "libtorrent":
            command = [
                *(sys.executable, "-m", "benchmarks.rig.libtorrent_client"),
                *(torrent, directory, device.address, done, json.dumps(self.settings)),
            ]
        else:
            raise RigError(f"no such client: {self.program}")
        return children.start(f"{self.name}-{device.name}", command, prefix=device.prefix)


_LIBTORRENT_TUNED: dict[str, object] = {
    # Whoever is there is found at once, over TCP, with every peer unchoked.
    "local_service_announce_interval": 2,
    "enable_outgoing_utp": False,
    "enable_incoming_utp": False,
    "unchoke_slots_limit": 100,
    "connection_speed": 200,
    "min_reconnect_time": 1,
    "allow_multiple_connections_per_ip": True,
    # The origin is asked for little at a time, so that what is asked for is what nobody here has.
    "max_web_seed_connections": 1,
    "urlseed_pipeline_size": 1,
    "urlseed_max_request_bytes": 1 << 16,
    "predictive_piece_announce": 200,
    "request_queue_time": 1,
    "initial_picker_threshold": 0,
}

RIVALS = {
    rival.name: rival
    for rival in (
        Rival("curl", "curl"),
        Rival("aria2", "aria2c"),
        Rival(
            "aria2-tuned",
            "aria2c",
            (
                *("--split=1", "--max-connection-per-server=1", "--bt-max-peers=0"),
                *("--bt-request-peer-speed-limit=100M", "--stream-piece-selector=random"),
                *("--file-allocation=none", "--min-split-size=1M"),
            ),
        ),
        Rival("libtorrent", "libtorrent"),
        Rival("libtorrent-tuned", "libtorrent", settings=_LIBTORRENT_TUNED),
    )
}

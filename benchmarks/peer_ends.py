"""One end of a transfer of `benchmarks.peer_throughput`, as a process: it sends a file, or fetches it.

Each prints one JSON line per step and reads commands on its standard input.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import trio

from benchmarks.peer_workloads import WORKLOADS, Workload
from p2p.adapters.identity import Credentials, load_credentials
from p2p.adapters.tls import TlsTransport
from p2p.content.digests import Digest
from p2p.ports import PeerAddress

TUNED: dict[str, Any] = {
    # one peer on loopback, as fast as it goes
    "enable_outgoing_utp": False,
    "enable_incoming_utp": False,
    "allow_multiple_connections_per_ip": True,
    "max_out_request_queue": 4000,
    "max_allowed_in_request_queue": 8000,
    "request_queue_time": 10,
    "whole_pieces_threshold": 60,
    "send_buffer_watermark": 16 << 20,
    "send_buffer_low_watermark": 1 << 20,
    "send_buffer_watermark_factor": 200,
    "send_socket_buffer_size": 4 << 20,
    "recv_socket_buffer_size": 4 << 20,
    "max_peer_recv_buffer_size": 16 << 20,
    "max_queued_disk_bytes": 64 << 20,
    "aio_threads": 2,
    "hashing_threads": 2,
    "unchoke_slots_limit": -1,
    "no_atime_storage": True,
    "ssrf_mitigation": False,
    # nothing that is not the transfer
    "enable_dht": False,
    "enable_lsd": False,
    "enable_upnp": False,
    "enable_natpmp": False,
    "alert_mask": 0,
}


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _say(**facts: object) -> None:
    print(json.dumps(facts), flush=True)


def slipstream_sender(directory: Path, workload: Workload, host: str) -> None:
    """Child: serve the file to all who come."""

    async def main() -> None:
        workload.hold(directory / "source", _digests(directory))
        transport = TlsTransport(_credentials(directory, "one"), time.time, host=host)
        _say(port=transport.port)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(transport.serve, workload.serve)
            await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True)
            before = _cpu()
            _say(ready=True)
            await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True)
            _say(cpu_s=_cpu() - before)
            nursery.cancel_scope.cancel()

    trio.run(main)


def slipstream_fetcher(directory: Path, workload: Workload, host: str, port: int, target: Path) -> None:
    """Child: fetch the file from the other one."""

    async def main() -> None:
        workload.make(target / "source", _digests(directory))
        transport = TlsTransport(_credentials(directory, "two"), time.time)
        stream = await transport.connect(PeerAddress(host, port))
        _say(ready=True)
        sys.stdin.readline()
        clock, cpu = time.perf_counter(), _cpu()
        await workload.fetch(stream)
        _say(began=clock, ended=time.perf_counter(), cpu_s=_cpu() - cpu)
        await stream.aclose()
        transport.close()

    trio.run(main)


def _libtorrent_session(encrypted: bool, host: str) -> Any:
    import libtorrent as lt

    policy = lt.enc_policy.forced if encrypted else lt.enc_policy.disabled
    return lt.session(
        TUNED
        | {
            "listen_interfaces": f"{host}:0",
            "in_enc_policy": int(policy),
            "out_enc_policy": int(policy),
            "allowed_enc_level": int(lt.enc_level.rc4 if encrypted else lt.enc_level.plaintext),
        }
    )


def _add(session: Any, torrent: Path, directory: Path, *, seeding: bool, alone: bool = False) -> Any:
    import libtorrent as lt

    parameters = lt.add_torrent_params()
    parameters.ti = lt.torrent_info(str(torrent))
    parameters.save_path = str(directory)
    if seeding:
        parameters.flags |= lt.torrent_flags.seed_mode
    if alone:
        parameters.flags |= lt.torrent_flags.disable_pex
    return session.add_torrent(parameters)


def libtorrent_sender(directory: Path, torrent: Path, encrypted: bool, alone: bool, host: str) -> None:
    """Child: seed the file."""
    session = _libtorrent_session(encrypted, host)
    handle = _add(session, torrent, directory, seeding=True, alone=alone)
    while not (session.listen_port() and handle.status().is_seeding):
        time.sleep(0.02)
    _say(port=session.listen_port())
    sys.stdin.readline()
    before = _cpu()
    _say(ready=True)
    sys.stdin.readline()
    _say(cpu_s=_cpu() - before)


def libtorrent_fetcher(
    torrent: Path, encrypted: bool, alone: bool, host: str, port: int, target: Path
) -> None:
    """Child: download the file from the other one, and unless `alone` from who else does."""
    import libtorrent as lt

    session = _libtorrent_session(encrypted, "127.0.0.1" if host == "127.0.0.1" else "0.0.0.0")
    handle = _add(session, torrent, target, seeding=False, alone=alone)
    states = lt.torrent_status.states
    while handle.status().state in (states.checking_files, states.checking_resume_data):
        time.sleep(0.005)
    _say(ready=True)
    sys.stdin.readline()
    clock, cpu = time.perf_counter(), _cpu()
    handle.connect_peer((host, port))
    while not handle.status().is_seeding:
        time.sleep(0.005)
    _say(began=clock, ended=time.perf_counter(), cpu_s=_cpu() - cpu)


def _digests(directory: Path) -> list[Digest]:
    return [Digest(bytes.fromhex(line)) for line in (directory / "digests").read_text().split()]


def _credentials(directory: Path, device: str) -> Credentials:
    return load_credentials(directory / f"{device}.key", directory / f"{device}.pem", directory / "ca.pem")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--role", required=True)
    parser.add_argument("--workload", choices=sorted(WORKLOADS), default="links")
    parser.add_argument("--directory", type=Path)
    parser.add_argument("--target", type=Path)
    parser.add_argument("--torrent", type=Path)
    parser.add_argument("--encrypted", action="store_true")
    parser.add_argument("--alone", action="store_true")
    parser.add_argument("--host")
    parser.add_argument("--port", type=int)
    o = parser.parse_args()
    match o.role:
        case "slipstream-sender":
            slipstream_sender(o.directory, WORKLOADS[o.workload](), o.host)
        case "slipstream-fetcher":
            slipstream_fetcher(o.directory, WORKLOADS[o.workload](), o.host, o.port, o.target)
        case "libtorrent-sender":
            libtorrent_sender(o.directory, o.torrent, o.encrypted, o.alone, o.host)
        case "libtorrent-fetcher":
            libtorrent_fetcher(o.torrent, o.encrypted, o.alone, o.host, o.port, o.target)
        case _:
            parser.error(f"--role: {o.role}")


if __name__ == "__main__":
    main()

"""One libtorrent client as a process: download a torrent, say so, keep seeding until ended.

    python -m benchmarks.rig.libtorrent_client TORRENT DIRECTORY LISTEN-ADDRESS DONE-FILE [SETTINGS-JSON]

A process of its own per device, as an integrator would write it around libtorrent's Python bindings.
"""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

import libtorrent as lt

POLL_S = 0.05


def main() -> None:
    torrent, directory, address, done = sys.argv[1:5]
    settings = {
        "listen_interfaces": f"{address}:6881",
        "enable_lsd": True,
        "enable_dht": False,
        "enable_upnp": False,
        "enable_natpmp": False,
        "alert_mask": lt.alert.category_t.error_notification | lt.alert.category_t.storage_notification,
    } | (json.loads(sys.argv[5]) if len(sys.argv) > 5 else {})
    session = lt.session(settings)
    handle = session.add_torrent({"ti": lt.torrent_info(torrent), "save_path": directory})
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    flushing = False
    while True:
        session.wait_for_alert(int(POLL_S * 1000))
        for alert in session.pop_alerts():
            if isinstance(alert, lt.cache_flushed_alert):
                Path(done).touch()
            elif alert.category() & lt.alert.category_t.error_notification:
                print(alert, flush=True)
        if not flushing and handle.status().is_seeding:
            handle.flush_cache()
            flushing = True


if __name__ == "__main__":
    main()

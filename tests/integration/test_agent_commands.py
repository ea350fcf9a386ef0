"""`slipstream agent …` as its user sees it: what is printed, what is kept, how it ends."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from p2p.adapters.device import FLOOR_DIRECTORIES, INSTALL_DIRECTORY
from p2p.adapters.durable import DirectoryBlobStore
from p2p.adapters.lock import AgentLock
from p2p.adapters.status import write_status
from p2p.cli import run
from p2p.config import read_config
from p2p.content.digests import sha256
from p2p.install import InstallRecord, Release, encode_record
from p2p.install.record import RECORD_NAME, Installed
from p2p.trust import ReleaseFloors
from tests.support.certificates import DAY, Fleet

IMAGE = b"flashed at the factory " * 1000
DIGEST = sha256(IMAGE).hex()

NO_INDEX = "whole, but the index of its full pack has yet to come: not for every device"


class Coordinator:
    """Answers enrolments as scripted: each of `script` is a status and document, or None to hang up."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.device = "dev-1"
        self.site = "depot"
        self.script: list[tuple[int, dict[str, object]] | None] = []
        self.requests: list[dict[str, str]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.requests.append({"path": self.path, **body})
                answer = outer.script.pop(0) if outer.script else (201, outer.certify(body["csr"]))
                if answer is None:
                    self.close_connection = True
                    return
                data = json.dumps(answer[1]).encode()
                self.send_response(answer[0])
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def certify(self, request: str) -> dict[str, object]:
        key = x509.load_pem_x509_csr(request.encode()).public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        now = time.time()
        certificate = self.fleet.issue(
            key,
            self.device,
            site=self.site,
            groups=("canary",),
            not_before=now - DAY,
            not_after=now + 90 * DAY,
        )
        return {
            "certificate": certificate.public_bytes(serialization.Encoding.PEM).decode(),
            "ca": self.fleet.pem.decode(),
            "site": self.site,
            "groups": ["canary"],
        }


@pytest.fixture
def coordinator() -> Iterator[Coordinator]:
    made = Coordinator(Fleet())
    thread = threading.Thread(target=made.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.server.shutdown()
    thread.join()
    made.server.server_close()


@pytest.fixture
def config(tmp_path: Path, coordinator: Coordinator) -> Path:
    path = tmp_path / "agent.toml"
    path.write_text(
        f'[device]\nid = "dev-1"\nproduct = "gw"\nhardware = "rev1"\nstate_dir = "state"\n'
        f'[coordinator]\nurl = "{coordinator.url}"\n'
        f'[slots.rootfs]\na = "a.img"\nb = "b.img"\n'
    )
    (tmp_path / "a.img").write_bytes(IMAGE)
    return path


Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def agent(config: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs `slipstream agent NAME --config … ARGUMENTS`; gives exit code, stdout, stderr."""

    def call(name: str, *arguments: str) -> tuple[int, str, str]:
        code = run(["agent", name, "--config", str(config), *arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return call


# enroll


def test_enrolment_makes_a_key_and_keeps_the_certificate(
    agent: Command, coordinator: Coordinator, config: Path
) -> None:
    code, out, err = agent("enroll", "--voucher", " ABCD ")
    assert (code, err) == (0, "")
    assert out.startswith("enrolled: dev-1, site depot\n")
    paths = read_config(config)
    assert paths.key_path.stat().st_mode & 0o777 == 0o600
    assert paths.fleet_ca_path.read_bytes() == coordinator.fleet.pem
    (request,) = coordinator.requests
    assert request["path"] == "/api/v1/enroll"
    assert (request["voucher"], request["device"], request["hardware"]) == ("ABCD", "dev-1", "rev1")
    assert "PRIVATE" not in json.dumps(coordinator.requests)


def test_enrolling_again_asks_nobody(agent: Command, coordinator: Coordinator, config: Path) -> None:
    agent("enroll", "--voucher", "V")
    before = read_config(config).certificate_path.read_bytes()
    code, out, _ = agent("enroll", "--voucher", "other", "--json")
    assert code == 0
    assert json.loads(out)["already_enrolled"] is True
    assert json.loads(out)["groups"] == ["canary"]
    assert len(coordinator.requests) == 1
    assert read_config(config).certificate_path.read_bytes() == before


def test_a_lost_answer_is_asked_for_again_with_the_same_key(
    agent: Command, coordinator: Coordinator, config: Path
) -> None:
    coordinator.script = [None, None]
    code, _, err = agent("enroll", "--voucher", "V")
    assert code == 7
    assert err.startswith("error: ")
    assert not read_config(config).certificate_path.exists()
    key = read_config(config).key_path.read_bytes()
    coordinator.script = []
    assert agent("enroll", "--voucher", "V")[0] == 0
    assert read_config(config).key_path.read_bytes() == key
    requests = [x509.load_pem_x509_csr(r["csr"].encode()).public_key() for r in coordinator.requests]
    assert all(public == requests[0] for public in requests)


def test_a_refusal_is_told_and_keeps_the_key(agent: Command, coordinator: Coordinator, config: Path) -> None:
    coordinator.script = [(403, {"error": "voucher-used", "message": "this voucher was used"})]
    code, out, err = agent("enroll", "--voucher", "V", "--json")
    assert (code, out) == (7, "")
    told = json.loads(err)
    assert told["reason"] == "voucher-used"
    assert "this voucher was used" in told["message"]
    assert read_config(config).key_path.exists()
    assert not read_config(config).certificate_path.exists()
    assert agent("enroll", "--voucher", "W")[0] == 0


def test_a_certificate_for_another_device_is_not_kept(
    agent: Command, coordinator: Coordinator, config: Path
) -> None:
    coordinator.device = "dev-2"
    code, _, err = agent("enroll", "--voucher", "V")
    assert code == 2
    assert "for device dev-2, device.id is dev-1" in err
    assert not read_config(config).certificate_path.exists()
    coordinator.device = "dev-1"
    assert agent("enroll", "--voucher", "V")[0] == 0


def test_a_certificate_of_another_site_is_not_kept_where_the_site_is_given(
    agent: Command, coordinator: Coordinator, config: Path
) -> None:
    config.write_text(config.read_text() + '[network]\nsite = "harbour"\n')
    code, _, err = agent("enroll", "--voucher", "V")
    assert code == 2
    assert "for site depot, network.site is harbour" in err
    coordinator.site = "harbour"
    assert agent("enroll", "--voucher", "V")[0] == 0


def test_a_shipped_fleet_ca_is_not_replaced_by_what_the_coordinator_says(
    agent: Command, coordinator: Coordinator, config: Path, tmp_path: Path
) -> None:
    (tmp_path / "ca.pem").write_bytes(Fleet().pem)
    config.write_text(config.read_text() + '[trust]\nfleet_ca = "ca.pem"\n')
    code, _, err = agent("enroll", "--voucher", "V")
    assert code == 2
    assert "not issued by this fleet's CA" in err
    assert not read_config(config).certificate_path.exists()
    (tmp_path / "ca.pem").write_bytes(coordinator.fleet.pem)
    assert agent("enroll", "--voucher", "V")[0] == 0


# status, adopt, check


def test_status_of_a_device_that_never_ran(agent: Command, config: Path) -> None:
    code, out, err = agent("status")
    assert (code, err) == (0, "")
    assert "not running" in out
    assert "running from a" in out
    assert not (config.parent / "state").exists()  # to look changes nothing


def test_adopt_records_the_flashed_image_and_status_shows_it(agent: Command) -> None:
    code, out, _ = agent("adopt", "--slot", "a", "--json")
    assert code == 0
    assert json.loads(out) == {"image": DIGEST, "payload": "rootfs", "size": len(IMAGE), "slot": "a"}
    slots = {s["slot"]: s for s in json.loads(agent("status", "--json")[1])["slots"]}
    assert (slots["a"]["image"], slots["a"]["valid"], slots["a"]["active"]) == (DIGEST, True, True)
    assert (slots["b"]["image"], slots["b"]["valid"], slots["b"]["active"]) == (None, False, False)


def test_a_slot_that_is_not_there_is_not_adopted(agent: Command) -> None:
    code, _, err = agent("adopt", "--slot", "b")
    assert code == 5
    assert "b.img" in err
    assert agent("adopt", "--slot", "b", "--payload", "boot")[0] == 2


def test_status_of_a_running_agent(agent: Command, config: Path) -> None:
    state = read_config(config).device.state_dir
    with AgentLock(state):
        facts = {
            "updated": time.time(),
            "site": "depot",
            "state": "writing",
            "role": "gateway",
            "progress": {"done": 25, "total": 100},
            "ledger": {
                "wan": 1_500_000,
                "peers": {"dev-2": 7},
                "base": 3,
                "zero": 0,
                "sent": {},
                "wasted": 0,
            },
            "peers": [{"device": "dev-2", "address": "10.0.0.2:7470", "role": "rider"}],
        }
        write_status(read_config(config).status_path, facts)
        code, out, _ = agent("status")
        assert code == 0
        for words in (
            "dev-1 (site depot)", "running (pid ", "writing, 25 %", "gateway", "1.5 MB (1500000)",
            "10.0.0.2:7470 rider",
        ):  # fmt: skip
            assert words in out, words
        told = json.loads(agent("status", "--json")[1])
        assert told["running"] is True
        assert told["agent"] == facts
    told = json.loads(agent("status", "--json")[1])
    assert (told["running"], told["pid"]) == (False, None)


@pytest.mark.parametrize(
    ("wan", "line"),
    [
        (
            {"closed_by": "quota", "until": "2026-12-01T00:00+00:00", "month_used": 1200, "month_max": 1000},
            "closed (budgets.wan_month_max) until 2026-12-01T00:00+00:00; "
            "1.2 kB (1200) of 1.0 kB (1000) used in 2026-11",
        ),
        (
            {"closed_by": None, "until": None, "month_used": 7, "month_max": None},
            "open; 7 B used in 2026-11",
        ),
    ],
)
def test_status_tells_of_budgets(agent: Command, config: Path, wan: dict[str, object], line: str) -> None:
    path = read_config(config).status_path
    path.parent.mkdir()
    write_status(path, {"wan": {**wan, "month": "2026-11"}})
    assert f"WAN      {line}\n" in agent("status")[1]


@pytest.mark.parametrize(
    ("state", "line"),
    [
        ({"state": "coming", "left": 1000}, "1.0 kB (1000) to come, 5.0 kB (5000)"),
        ({"state": "whole"}, "whole, 5.0 kB (5000)"),
        ({"state": "whole", "lacks": None}, "whole, 5.0 kB (5000)"),
        ({"state": "whole", "lacks": "index"}, f"{NO_INDEX}, 5.0 kB (5000)"),
        ({"state": "failed", "reason": "no space left"}, "failed: no space left, 5.0 kB (5000)"),
        ({"state": "no-room"}, "no room for it, 5.0 kB (5000)"),
    ],
)
def test_status_tells_what_is_carried(
    agent: Command, config: Path, state: dict[str, object], line: str
) -> None:
    path = read_config(config).status_path
    path.parent.mkdir()
    write_status(path, {"carried": [{"name": "pump 2.0 rootfs", "size": 5000, **state}]})
    assert f"carried for others\n  pump 2.0 rootfs  {line}\n" in agent("status")[1]


@pytest.mark.parametrize(
    ("lacks", "line"),
    [(None, "whole"), ("index", NO_INDEX), ("leave", "whole, but not given to others just now (on battery, or"
      " swarm.serve_s is over)")],
)  # fmt: skip
def test_a_carriers_status_tells_what_it_can_give_of_its_own(
    agent: Command, config: Path, lacks: str | None, line: str
) -> None:
    path = read_config(config).status_path
    path.parent.mkdir()
    write_status(path, {"given": [{"name": "engine 2.0 rootfs", "size": 5000, "lacks": lacks}]})
    expected = f"brought to others, of what it runs\n  engine 2.0 rootfs  {line}, 5.0 kB (5000)\n"
    assert expected in agent("status")[1]


def test_commands_that_change_a_device_wait_for_no_agent(agent: Command, config: Path) -> None:
    with AgentLock(read_config(config).device.state_dir):
        for name, *arguments in (
            ("enroll", "--voucher", "V"),
            ("adopt", "--slot", "a"),
            ("unblock",),
            ("restore-floor",),
            ("run", "--once"),
        ):
            code, _, err = agent(name, *arguments)
            assert code == 5, name
            assert "another agent" in err
    assert agent("adopt", "--slot", "a")[0] == 0


def test_unblock_lets_what_failed_be_tried_again(agent: Command, config: Path) -> None:
    store = DirectoryBlobStore(read_config(config).device.state_dir / INSTALL_DIRECTORY)
    blocked = InstallRecord(blocked=(sha256(b"manifest"),), reason="why")
    assert agent("unblock") == (0, "nothing was blocked\n", "")
    store.write(RECORD_NAME, encode_record(blocked))
    code, out, _ = agent("unblock", "--json")
    assert (code, json.loads(out)) == (0, {"unblocked": [sha256(b"manifest").hex()]})
    assert json.loads(agent("status", "--json")[1])["install"]["blocked"] == []
    assert json.loads(agent("unblock", "--json")[1]) == {"unblocked": []}


def test_the_floor_is_restored_where_it_was_damaged_and_only_there(agent: Command, config: Path) -> None:
    state = read_config(config).device.state_dir
    stores = [DirectoryBlobStore(state / name) for name in FLOOR_DIRECTORIES]
    product = read_config(config).device.product
    assert agent("restore-floor", "--counter", "3") == (
        0, f"the floor of {product} is 0 and was not damaged: unchanged\n", "",
    )  # fmt: skip
    for store in stores:
        store.write(f"floor-{product}", b"torn")
    code, _, err = agent("restore-floor")
    assert code == 2
    assert "does not know the counter of what it runs" in err
    release = Release(product, "2.0", 7, sha256(b"manifest"), "o1")
    installed = InstallRecord(installed=Installed(release, "a"))
    DirectoryBlobStore(state / INSTALL_DIRECTORY).write(RECORD_NAME, encode_record(installed))
    stores[1].write(f"floor-{product}", b"")
    code, out, _ = agent("restore-floor", "--json")
    assert (code, json.loads(out)) == (0, {"product": product, "counter": 7, "restored": True})
    assert ReleaseFloors(*stores).get(product) == 7


def test_check_names_every_fault_and_passes_without(
    agent: Command, config: Path, coordinator: Coordinator, tmp_path: Path
) -> None:
    code, out, err = agent("check")
    assert code == 2
    assert "FAULT  this device is not enrolled" in out
    assert "FAULT  cannot read the pinned root" in out
    assert err == "error: 2 of 8 checks found a fault\n"
    agent("enroll", "--voucher", "V")
    code, out, _ = agent("check", "--json")
    faults = {c["check"]: c["fault"] for c in json.loads(out)["checks"] if c["fault"]}
    assert list(faults) == ["pinned root"]
    (tmp_path / "state" / "root.json").write_bytes(_root())
    code, out, err = agent("check")
    assert (code, err) == (0, "")
    assert "FAULT" not in out
    assert "dev-1, site depot, until" in out


def test_slots_that_are_one_file_under_two_names_are_not_written_to(
    agent: Command, config: Path, tmp_path: Path
) -> None:
    """As with `/dev/disk/by-partlabel/…` beside `/dev/mmcblk0p2`: their names do not tell."""
    agent("enroll", "--voucher", "V")
    (tmp_path / "state" / "root.json").write_bytes(_root())
    (tmp_path / "b.img").symlink_to("a.img")
    for command in ("check", "run"):
        code, out, err = agent(command)
        assert code == 2
        assert f"slots.rootfs.b ({tmp_path}/b.img) is the same place as slots.rootfs.a" in out + err
    assert (tmp_path / "a.img").read_bytes() == IMAGE


def _root() -> bytes:
    from securesystemslib.signer import CryptoSigner
    from tuf.api.metadata import Metadata, Root

    signer = CryptoSigner.generate_ed25519()
    root = Root()
    root.add_key(signer.public_key, "root")
    metadata = Metadata(root)
    metadata.sign(signer)
    return metadata.to_bytes()


def test_linger_needs_once(agent: Command) -> None:
    code, _, err = agent("run", "--linger", "3")
    assert code == 2
    assert "--linger goes with --once" in err

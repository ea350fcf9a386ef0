"""Repositories, releases and a running coordinator for tests: real code, small images, a clock to set."""

from __future__ import annotations

import base64
import contextlib
import gzip
import hashlib
import http.client
import json
import urllib.parse
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.x509.oid import NameOID

from coordinator.app import Coordinator
from coordinator.db.devices import create_voucher
from coordinator.publishing import releases
from coordinator.publishing.keys import Passphrases
from coordinator.publishing.orders import OrderRequest, create_order, publish_order
from coordinator.publishing.packing import BuiltPack
from coordinator.publishing.proposal import Proposal
from coordinator.publishing.releases import PayloadInput, ReleaseRequest, build_release, publish_release
from coordinator.publishing.repository import Repository
from coordinator.publishing.setup import Roles, init_repository
from p2p.content.digests import Digest, sha256
from p2p.content.index import Chunk, Compression, Data, PackIndex, encode
from p2p.content.manifest import Manifest, ObjectRef, PackRef
from p2p.content.order import Audience, Order, Phase
from tests.support.serving import serving

START = datetime(2026, 6, 1, 12, 0, 0, tzinfo=UTC)


@dataclass
class SetClock:
    """A clock that stands still until a test moves it."""

    now: datetime = START

    def __call__(self) -> datetime:
        return self.now

    def seconds(self) -> float:
        return self.now.timestamp()


def stored_pack(
    target: Path, base: Path | None, out_dir: Path, *, workers: Any = None, progress: Any = None
) -> BuiltPack:
    """In place of `build_pack`: a right pack of one stored chunk, without any process."""
    image = target.read_bytes()
    old = None if base is None else base.read_bytes()
    index = PackIndex(
        image=sha256(image),
        image_size=len(image),
        base=None if old is None else sha256(old),
        base_size=0 if old is None else len(old),
        entries=(Data(len(image), Compression.NONE, (Chunk(len(image), sha256(image)),)),),
    )
    refs = []
    out_dir.mkdir(exist_ok=True)
    for data in (encode(index), image):
        ref = ObjectRef(sha256(data), len(data))
        (out_dir / ref.sha256.hex()).write_bytes(data)
        refs.append(ref)
    pack = PackRef(index.base, refs[0], refs[1])
    return BuiltPack(pack, ObjectRef(index.image, index.image_size), index, 0.0)


@contextlib.contextmanager
def quick_packs() -> Iterator[None]:
    """Let releases be built by `stored_pack` for a while."""
    real = releases.build_pack
    releases.build_pack = stored_pack
    try:
        yield
    finally:
        releases.build_pack = real


@dataclass
class Fleet:
    """A repository with its clock and shortcuts for what tests need again and again."""

    directory: Path
    repository: Repository
    clock: SetClock
    images: dict[str, Path] = field(default_factory=dict)

    @classmethod
    def make(
        cls,
        tmp_path: Path,
        roles: Roles | None = None,
        products: tuple[str, ...] = ("engine",),
        now: datetime = START,
    ) -> Fleet:
        clock = SetClock(now)
        directory = tmp_path / "fleet"
        passphrases = Passphrases(plain=True, environment={}, prompt=False)
        repository = init_repository(directory, passphrases, roles, products=products, clock=clock)
        return cls(directory, repository, clock)

    def image(self, content: bytes) -> Path:
        path = self.directory.parent / f"image-{hashlib.sha256(content).hexdigest()[:8]}"
        path.write_bytes(content)
        return path

    def build(
        self, version: str, content: bytes = b"", bases: tuple[bytes, ...] = (), **request: Any
    ) -> Proposal:
        """An unsigned release of product `engine` (unless told otherwise)."""
        payload = PayloadInput(
            "rootfs", self.image(content or f"image {version}".encode()), tuple(self.image(b) for b in bases)
        )
        asked = ReleaseRequest(
            product=request.pop("product", "engine"),
            version=version,
            hardware=("board-a",),
            payloads=(payload,),
            **request,
        )
        with quick_packs():
            return build_release(
                asked,
                self.repository.state(),
                self.repository.objects,
                self.repository.expiry("release"),
            ).proposal

    def release(self, version: str, content: bytes = b"", **request: Any) -> Manifest:
        """Build, sign and publish."""
        proposal = self.build(version, content, **request)
        return publish_release(self.repository, [proposal], None, sign_here=True)

    def order(
        self, version: str, audience: Audience | None = None, phases: tuple[Phase, ...] = (), **request: Any
    ) -> Order:
        """Create, sign and publish."""
        asked = OrderRequest("engine", version, audience or Audience(all=True), phases, **request)
        proposal = create_order(self.repository, self.repository.state(), asked)
        return publish_order(self.repository, [proposal], sign_here=True)


class FakeDevice:
    """A device's side of the API, written from `docs/spec/device-api.md` and RFC 9421 alone."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.key = ec.generate_private_key(ec.SECP256R1())

    def csr(self, common_name: str = "whatever", key: Any = None) -> str:
        request = (
            x509.CertificateSigningRequestBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)]))
            .sign(key or self.key, hashes.SHA256())
        )
        return request.public_bytes(serialization.Encoding.PEM).decode()

    def status(self, **changed: Any) -> bytes:
        status: dict[str, Any] = {
            "listen_host": "10.0.0.1",
            "listen_port": 7000,
            "release": "1.0",
            "slot": "a",
            "state": "idle",
            "images": {"rootfs": "ab" * 32},
            "ledger": {"wan": 10, "peers": {"d2": 5}, "base": 1, "zero": 2, "sent": {}, "wasted": 0},
            "role": "rider",
        }
        return json.dumps(status | changed).encode()

    def report(
        self, sequence: int, signed_at: float, *, device: str | None = None, key: Any = None, **changed: Any
    ) -> bytes:
        """A signed report, as `docs/spec/device-api.md` has it."""
        document = {
            "device": device or self.name,
            "sequence": sequence,
            "signed_at": int(signed_at),
            "status": json.loads(self.status(**changed)),
        }
        line = json.dumps(document).encode() + b"\n"
        signed = (key or self.key).sign(b"slipstream-report-1\0" + line, ec.ECDSA(hashes.SHA256()))
        r, s = utils.decode_dss_signature(signed)
        return base64.b64encode(r.to_bytes(32, "big") + s.to_bytes(32, "big")) + b" " + line

    def sign(
        self,
        body: bytes,
        created: float,
        nonce: str | None = None,
        *,
        path: str = "/api/v1/checkin",
        keyid: str | None = None,
        components: tuple[str, ...] = ("@method", "@path", "content-digest"),
        key: ec.EllipticCurvePrivateKey | None = None,
    ) -> dict[str, str]:
        """The three header fields of a signed request."""
        digest = f"sha-256=:{base64.b64encode(hashlib.sha256(body).digest()).decode()}:"
        names = " ".join(f'"{c}"' for c in components)
        parameters = (
            f'({names});created={int(created)};nonce="{nonce or uuid.uuid4().hex}"'
            f';keyid="{keyid or self.name}";alg="ecdsa-p256-sha256"'
        )
        values = {"@method": "POST", "@path": path, "content-digest": digest}
        base = "\n".join(f'"{c}": {values[c]}' for c in components)
        base += f'\n"@signature-params": {parameters}'
        r, s = utils.decode_dss_signature((key or self.key).sign(base.encode(), ec.ECDSA(hashes.SHA256())))
        raw = r.to_bytes(32, "big") + s.to_bytes(32, "big")
        return {
            "Content-Digest": digest,
            "Signature-Input": f"sig={parameters}",
            "Signature": f"sig=:{base64.b64encode(raw).decode()}:",
        }


@dataclass(frozen=True)
class Answer:
    """An HTTP answer, read whole."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> Any:
        return self.json["error"]


class Running:
    """A coordinator that serves on loopback."""

    def __init__(self, coordinator: Coordinator, url: str, clock: SetClock) -> None:
        self.coordinator = coordinator
        self.url = url
        self.clock = clock
        parts = urllib.parse.urlsplit(url)
        self.address = (parts.hostname or "", parts.port or 0)

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        connection = http.client.HTTPConnection(*self.address, timeout=10)
        try:
            named = {key.replace("_", "-"): value for key, value in headers.items()}
            connection.request(method, path, body=body, headers=named)
            answer = connection.getresponse()
            data = answer.read()
            return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, data)
        finally:
            connection.close()

    def voucher(self, site: str = "depot", groups: tuple[str, ...] = (), device: str | None = None) -> str:
        now = int(self.clock.seconds())
        with self.coordinator.database.write() as session:
            return create_voucher(session, site, groups, device, now, now + 3600)

    def enroll(self, device: FakeDevice, voucher: str | None = None, /, **changed: Any) -> Answer:
        body = {
            "voucher": voucher or self.voucher(),
            "device": device.name,
            "hardware": "board-a",
            "csr": device.csr(),
        }
        return self.ask("POST", "/api/v1/enroll", json.dumps(body | changed).encode())

    def checkin(self, device: FakeDevice, **changed: Any) -> Answer:
        body = device.status(**changed)
        return self.ask("POST", "/api/v1/checkin", body, **device.sign(body, self.clock.seconds()))

    def hand_in(
        self, by: FakeDevice, *reports: bytes, coding: str = "gzip", body: bytes | None = None
    ) -> Answer:
        """A batch of reports, handed in by one device."""
        if body is None:
            body = b"".join(reports)
            body = gzip.compress(body, mtime=0) if coding == "gzip" else body
        headers = by.sign(body, self.clock.seconds(), path="/api/v1/reports")
        return self.ask("POST", "/api/v1/reports", body, Content_Encoding=coding, **headers)


@contextlib.contextmanager
def running(fleet: Fleet, certificate: Path | None = None) -> Iterator[Running]:
    """Serve a fleet's repository on a free loopback port, in a thread, until the block ends."""
    with serving(fleet.repository, fleet.clock.seconds, certificate) as (coordinator, url):
        yield Running(coordinator, url, fleet.clock)


def digest(text: str) -> Digest:
    """A digest to stand for something."""
    return sha256(text.encode())

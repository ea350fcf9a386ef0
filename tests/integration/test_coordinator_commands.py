"""The commands as an operator types them, on plain files; serving as a real process."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import pytest

from p2p.cli import run

SCRIPT = str(Path(sys.executable).with_name("slipstream"))


class Done(NamedTuple):
    """What a command printed."""

    stdout: str
    stderr: str


class Shell:
    """Runs `slipstream` in a directory with a passphrase in the environment.

    In this process, where the console script would call the same function: a second of imports per command
    is saved.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith("SLIPSTREAM_")}
        self.environment |= {"SLIPSTREAM_PASSPHRASE": "a passphrase"}

    def run(self, *arguments: str, code: int = 0, **environment: str) -> Done:
        out, err = io.StringIO(), io.StringIO()
        with (
            contextlib.chdir(self.directory),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            mock.patch.dict(os.environ, self.environment | environment),
        ):
            found = run(list(arguments))
        assert found == code, (arguments, out.getvalue(), err.getvalue())
        return Done(out.getvalue(), err.getvalue())

    def facts(self, *arguments: str) -> Any:
        return json.loads(self.run(*arguments, "--json").stdout)


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    shell = Shell(tmp_path_factory.mktemp("commands"))
    old = os.urandom(200_000)
    (shell.directory / "old.img").write_bytes(old)
    (shell.directory / "new.img").write_bytes(old[:1000] + b"changed" + old[1007:])
    shell.run("repo", "init", "fleet")
    return shell


def test_from_nothing_to_an_open_order(shell: Shell) -> None:
    common = ("--repo", "fleet", "--product", "engine", "--hardware", "board-a")
    built = shell.facts("release", "build", "old.img", *common, "--version", "1.0", "--out", "r.json")
    assert (built["counter"], built["signatures_needed"]) == (1, 1)
    signed = shell.run("release", "sign", "r.json", "--key", "fleet/keys/release.pem").stdout
    image = built["payloads"][0]["image"]
    for shown in ("release engine 1.0, release counter 1", "board-a", image, "ready to publish"):
        assert shown in signed
    shell.run("release", "publish", "r.json", "--repo", "fleet")
    built = shell.facts(
        "release", "build", "--payload", "rootfs=new.img", "--base", "old.img", *common, "--version", "1.1"
    )
    full, delta = built["packs"]
    assert delta["wan_bytes"] < 2_000 < full["wan_bytes"]
    refused = shell.run("release", "publish", "engine-1.1.release.json", "--repo", "fleet", code=4).stderr
    assert "needs 1 good signatures and has 0" in refused
    shell.run("release", "publish", "engine-1.1.release.json", "--repo", "fleet", "--sign")
    assert [r["version"] for r in shell.facts("release", "list", "--repo", "fleet")] == ["1.0", "1.1"]

    shell.run(
        "order", "create", "--repo", "fleet", "--product", "engine", "--version", "1.1", "--all",
        "--phase", "canary:5:group=test", "--phase", "all:100", "--out", "o.json",
    )  # fmt: skip
    signed = shell.run("order", "sign", "o.json", "--repo", "fleet").stdout
    for shown in (
        "order 1-1.1",
        "for everybody",
        "phase 1 canary: 5 % of the sites, only groups test",
        image[:16],
    ):
        assert shown in signed
    shell.run("order", "publish", "o.json", "--repo", "fleet")
    shell.run("order", "phase", "1-1.1", "--open", "2", "--repo", "fleet")
    (order,) = shell.facts("order", "list", "--repo", "fleet")
    assert (order["opened"], order["status"]) == (2, "running")
    status = shell.facts("repo", "status", "fleet")
    assert status["problems"] == []
    assert status["products"] == ["engine"]
    log = shell.facts("coordinator", "audit", "list", "--repo", "fleet")
    assert [e["action"] for e in log] == [
        "repository.created", "product.added", "release.published", "release.published",
        "order.published", "order.phase",
    ]  # fmt: skip


def test_a_release_built_without_the_repository(shell: Shell) -> None:
    shell.run("repo", "init", "apart", "--product", "pump")
    shutil.copytree(shell.directory / "apart/metadata", shell.directory / "copy")
    (shell.directory / "sbom.json").write_text('{"components": []}')
    built = shell.facts(
        "release", "build", "old.img", "--objects", "out", "--metadata", "copy", "--product", "pump",
        "--version", "1", "--hardware", "h", "--sbom", "sbom.json", "--option", "verify=strict",
        "--out", "p.json",
    )  # fmt: skip
    assert built["objects"] == "out"
    assert len(list((shell.directory / "out").iterdir())) == 3
    shown = shell.run("release", "sign", "p.json", "--key", "apart/keys/release.pem").stdout
    sbom = hashlib.sha256((shell.directory / "sbom.json").read_bytes()).hexdigest()
    assert f"SBOM sha256 {sbom}" in shown
    assert "option verify = strict" in shown
    assert "is missing" in shell.run("release", "publish", "p.json", "--repo", "apart", code=3).stderr
    shell.run("release", "publish", "p.json", "--repo", "apart", "--objects", "out")
    assert (shell.directory / "apart/objects" / sbom).read_bytes() == (
        shell.directory / "sbom.json"
    ).read_bytes()
    assert shell.run("release", "publish", "p.json", "--repo", "apart", code=2).stderr.startswith(
        "error: this release is published already"
    )


def test_mistakes_are_explained(shell: Shell) -> None:
    for arguments, code, said in [
        (("repo", "init", "fleet"), 2, "fleet is not empty"),
        (("repo", "status", "nowhere"), 2, "slipstream repo init nowhere"),
        (("release", "list", "--repo", "fleet", "--product", "boat"), 2, "no product 'boat'"),
        (("order", "phase", "9", "--pause", "--repo", "fleet"), 2, "no order '9'"),
        (("order", "phase", "9", "--repo", "fleet"), 2, "say one of"),
        (("coordinator", "site", "s", "--repo", "fleet"), 2, "no device of a site"),
        (("coordinator", "serve", "fleet", "--listen", "8080"), 2, "not ADDR:PORT"),
        (("voucher", "create", "--repo", "fleet", "--site", "s", "--expires", "soon"), 2, "7d"),
        (("repo", "refresh", "fleet"), 0, ""),
    ]:
        assert said in shell.run(*arguments, code=code).stderr
    wrong = shell.run("repo", "refresh", "fleet", code=2, SLIPSTREAM_PASSPHRASE="no").stderr
    assert "wrong passphrase" in wrong


def test_plain_keys_are_said_loudly(shell: Shell) -> None:
    said = shell.run("repo", "init", "plain", "--insecure-plain-keys").stderr
    assert "WITHOUT encryption" in said
    assert b"ENCRYPTED" not in (shell.directory / "plain/keys/root.pem").read_bytes()
    assert b"ENCRYPTED" in (shell.directory / "fleet/keys/root.pem").read_bytes()


def test_serve_says_when_it_is_ready_and_stops_when_told(shell: Shell) -> None:
    ready = shell.directory / "ready"
    process = subprocess.Popen(
        [SCRIPT, "coordinator", "serve", "fleet", "--listen", "127.0.0.1:0", "--ready-file", "ready"],
        cwd=shell.directory,
        env=shell.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        said = process.stdout.readline()
        url = ready.read_text().strip()
        assert said == f"serving fleet at {url}\n"
        with urllib.request.urlopen(f"{url}/metadata/timestamp.json", timeout=10) as answer:
            assert answer.read() == (shell.directory / "fleet/metadata/timestamp.json").read_bytes()
        # What a command publishes is served at once, and enrolment sees new vouchers.
        shell.run("repo", "refresh", "fleet")
        with urllib.request.urlopen(f"{url}/metadata/timestamp.json", timeout=10) as answer:
            assert answer.read() == (shell.directory / "fleet/metadata/timestamp.json").read_bytes()
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(15) == 0
        assert time.monotonic() - began < 10
    finally:
        process.kill()
        process.communicate()


def test_serve_refuses_an_inconsistent_repository(shell: Shell) -> None:
    shell.run("repo", "init", "broken", "--product", "engine")
    path = shell.directory / "broken/metadata/1.product-engine.json"
    kept = path.read_bytes()
    path.write_bytes(kept.replace(b"product", b"produce") + b" ")
    refused = shell.run("coordinator", "serve", "broken", "--listen", "127.0.0.1:0", code=5).stderr
    assert "does not verify" in refused
    assert "restore metadata/" in refused
    path.write_bytes(kept)
    shell.run("repo", "status", "broken")


def test_serve_refuses_without_its_objects(shell: Shell) -> None:
    shell.run("repo", "init", "bare")
    shell.run(
        "release", "build", "old.img", "--repo", "bare", "--product", "p", "--version", "1",
        "--hardware", "h", "--out", "bare.json",
    )  # fmt: skip
    shell.run("release", "publish", "bare.json", "--repo", "bare", "--sign")
    frames = max((shell.directory / "bare/objects").iterdir(), key=lambda p: p.stat().st_size)
    kept = frames.read_bytes()
    frames.write_bytes(kept[:-1])
    refused = shell.run("coordinator", "serve", "bare", "--listen", "127.0.0.1:0", code=5).stderr
    assert frames.name in refused
    frames.write_bytes(b"x" * len(kept))
    shell.run("repo", "status", "bare")
    deep = shell.run("repo", "status", "bare", "--deep", code=2)
    assert "is damaged" in deep.stdout
    frames.write_bytes(kept)
    shell.run("repo", "status", "bare", "--deep")


def test_vouchers_are_printed_once_and_kept_as_digests(shell: Shell) -> None:
    made = shell.facts("voucher", "create", "--repo", "fleet", "--site", "s1", "--group", "g", "--count", "3")
    assert len(set(made["vouchers"])) == 3
    raw = b"".join(p.read_bytes() for p in shell.directory.glob("fleet/coordinator.db*"))
    for voucher in made["vouchers"]:
        assert voucher.encode() not in raw


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("UPDATE audit SET actor = 'nobody' WHERE seq = 2", "edited"),
        ("DELETE FROM audit WHERE seq = 2", "gap"),
        ("DELETE FROM audit WHERE seq > 2", "truncated"),
        ("DELETE FROM audit", "truncated"),
    ],
)
def test_tampering_with_the_audit_log_is_found(shell: Shell, statement: str, reason: str) -> None:
    name = f"audit-{abs(hash(statement))}"
    shell.run("repo", "init", name)
    for site in ("s1", "s2", "s3"):
        shell.run("voucher", "create", "--repo", name, "--site", site)
    shell.run("coordinator", "audit", "checkpoint", "--repo", name)
    assert (
        "4 entries, whole; 1 checkpoints agree"
        in shell.run("coordinator", "audit", "verify", "--repo", name).stdout
    )
    with sqlite3.connect(shell.directory / name / "coordinator.db") as database:
        database.execute(statement)
    database.close()
    found = shell.run("coordinator", "audit", "verify", "--repo", name, code=5).stderr
    assert f"tampered with ({reason})" in found


def test_every_command_has_help_with_an_example(shell: Shell) -> None:
    for command in ("repo init", "repo status", "release build", "release sign", "release publish",
                    "order create", "order sign", "order publish", "order phase", "voucher create",
                    "coordinator serve"):  # fmt: skip
        assert "Example" in shell.run(*command.split(), "--help").stdout

"""The walls of the house: import contracts, public names, what an agent alone needs."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
import tomllib
from importlib.metadata import distribution
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("p2p", "coordinator", "sim")
PURE = ("p2p/content", "p2p/delta", "p2p/trust", "p2p/swarm", "p2p/install", "coordinator/domain")
LINES_MAX = 500
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def modules(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def shown(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_the_import_contracts_hold() -> None:
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([str(linter), "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:]
    kept = re.search(r"Contracts: (\d+) kept, 0 broken", done.stdout)
    assert kept and int(kept[1]) == len(PROJECT["tool"]["importlinter"]["contracts"])


def test_a_broken_contract_would_be_seen(tmp_path: Path) -> None:
    """The twin of the test above: one module more, which reads a clock where none may be read."""
    for folder, text in (("p2p", ""), ("p2p/content", ""), ("coordinator", ""), ("sim", "")):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / "__init__.py").write_text(text)
    (tmp_path / "p2p" / "content" / "clock.py").write_text("import time\n")
    contract = next(c for c in PROJECT["tool"]["importlinter"]["contracts"] if "clock" in c["name"])
    names = ", ".join(f'"{name}"' for name in contract["forbidden_modules"])
    (tmp_path / "pyproject.toml").write_text(
        '[tool.importlinter]\nroot_packages = ["p2p"]\ninclude_external_packages = true\n'
        f'[[tool.importlinter.contracts]]\nname = "pure"\ntype = "forbidden"\n'
        f'source_modules = ["p2p.content"]\nforbidden_modules = [{names}]\n'
    )
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run(
        [str(linter), "--no-cache"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "p2p.content is not allowed to import time" in done.stdout


def test_the_contracts_name_every_pure_package() -> None:
    contract = next(c for c in PROJECT["tool"]["importlinter"]["contracts"] if "clock" in c["name"])
    assert {folder.replace("/", ".") for folder in PURE} <= set(contract["source_modules"])


@pytest.mark.parametrize("path", modules(*PACKAGES), ids=shown)
def test_a_module_says_what_it_is_for_and_stays_readable(path: Path) -> None:
    text = path.read_text()
    if "migrations/versions" in shown(path) or (path.name == "__init__.py" and not text.strip()):
        return
    assert ast.get_docstring(ast.parse(text)), "a module opens with what it is for"
    assert len(text.splitlines()) <= LINES_MAX, "one noun of the field per module"


def public_packages() -> list[str]:
    """Packages whose `__init__` offers names."""
    found = []
    for path in modules(*PACKAGES):
        if path.name == "__init__.py" and path.read_text().strip():
            tree = ast.parse(path.read_text())
            if any(isinstance(node, ast.ImportFrom | ast.FunctionDef | ast.ClassDef) for node in tree.body):
                found.append(".".join(path.parent.relative_to(ROOT).parts))
    return found


@pytest.mark.parametrize("name", public_packages())
def test_a_package_lists_what_it_offers(name: str) -> None:
    package = importlib.import_module(name)
    assert hasattr(package, "__all__"), f"{name} has no __all__"
    assert len(set(package.__all__)) == len(package.__all__)
    for public in package.__all__:
        assert hasattr(package, public), f"{name}.__all__ names {public}, which is not there"


def test_the_pure_packages_that_others_use_list_what_they_offer() -> None:
    assert {"p2p.delta", "p2p.trust", "p2p.swarm", "p2p.install", "p2p.agent", "p2p.cli"} <= set(
        public_packages()
    )


def test_every_command_of_the_entry_points_is_there() -> None:
    entries = distribution("slipstream").entry_points.select(group="slipstream.commands")
    assert {e.name for e in entries} == set(PROJECT["project"]["entry-points"]["slipstream.commands"])
    for entry in entries:
        module, _, name = entry.value.partition(":")
        assert hasattr(importlib.import_module(module), name), entry.name


def test_an_agent_needs_none_of_the_server() -> None:
    agent = {re.split(r"[<>=;\[ ]", name)[0] for name in PROJECT["project"]["dependencies"]}
    assert not agent & {"fastapi", "sqlalchemy", "alembic", "uvicorn", "rich"}


def test_no_committed_text_names_a_download_host() -> None:
    lock_files = [p for p in ROOT.glob("*.txt") if "require" in p.name or "constraint" in p.name]
    for path in [ROOT / "pyproject.toml", *lock_files]:
        assert not re.search(r"index-url|https?://[^\s\"']*(pypi|simple)", path.read_text()), path.name

"""The database's schema: migrations lead to exactly what the tables say."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine

from coordinator.db.database import HEAD, MIGRATIONS, Database
from coordinator.db.models import Base
from p2p.errors import StoreError


def test_migrations_make_the_tables_of_the_models(tmp_path: Path) -> None:
    path = tmp_path / "c.db"
    Database.open(path).close()
    engine = create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []
    engine.dispose()
    assert path.stat().st_mode & 0o077 == 0


def test_head_is_the_newest_revision() -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    assert ScriptDirectory.from_config(config).get_current_head() == HEAD


def test_a_schema_from_the_future_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.db"
    Database.open(path).close()
    connection = sqlite3.connect(path)
    connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.commit()
    with pytest.raises(StoreError, match="does not know"):
        Database.open(path)
    connection.execute("UPDATE alembic_version SET version_num = ?", (HEAD,))
    connection.commit()
    connection.close()
    Database.open(path).close()


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.db"
    path.write_bytes(b"not a database at all" * 100)
    with pytest.raises(StoreError, match="cannot be used"):
        Database.open(path)

"""Opening the database: SQLite with WAL by default, migrated to the newest schema at start.

Two ways to write, because they may lose different things: `write` is durable when it returns (enrolment,
audit, tokens); `note` may lose the last seconds in a power cut, which for status reports costs nothing.
Calls are synchronous: SQLite inline is faster than any thread hop.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.exc import OperationalError, SQLAlchemyError
from sqlalchemy.orm import Session

from p2p.errors import StoreError

BUSY_TIMEOUT_MS = 10_000
MIGRATIONS = Path(__file__).parent / "migrations"
HEAD = "0003"
"""The newest revision below `migrations/versions`."""


class Database:
    """The coordinator's database. Sessions commit when their block ends and roll back on any error."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._durable = _engine(path, "FULL", "BEGIN IMMEDIATE")
        self._quick = _engine(path, "NORMAL", "BEGIN IMMEDIATE")
        self._reader = _engine(path, "NORMAL", "BEGIN")

    @classmethod
    def open(cls, path: Path) -> Database:
        """Open and migrate; raises `StoreError`."""
        try:
            path.touch(mode=0o600)
        except OSError as error:
            raise StoreError(f"the database {path} cannot be made: {error.strerror or error}") from error
        database = cls(path)
        try:
            migrate(database._durable)
        except SQLAlchemyError as error:
            database.close()
            raise StoreError(
                f"the database {path} cannot be used: {error}",
                kept="the database as it is",
                next_step="restore it from a backup, or use the version of Slipstream that wrote it",
            ) from error
        return database

    @contextlib.contextmanager
    def write(self) -> Iterator[Session]:
        """A transaction that is on disk when the block ends."""
        with _session(self._durable, self.path) as session:
            yield session

    @contextlib.contextmanager
    def note(self) -> Iterator[Session]:
        """A transaction that a power cut may undo."""
        with _session(self._quick, self.path) as session:
            yield session

    @contextlib.contextmanager
    def read(self) -> Iterator[Session]:
        """A consistent view; never blocks and is never blocked by writers."""
        with _session(self._reader, self.path) as session:
            yield session

    def close(self) -> None:
        for engine in (self._durable, self._quick, self._reader):
            engine.dispose()


def migrate(engine: Engine) -> None:
    """Bring the schema to `HEAD`; raises `StoreError` for a schema that this version does not know."""
    if _revision(engine) == HEAD:
        return
    # Alembic takes long to import, and nearly always there is nothing to migrate.
    from alembic import command
    from alembic.config import Config
    from alembic.util.exc import CommandError

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    try:
        with engine.begin() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, HEAD)
    except CommandError as error:
        raise StoreError(
            f"the database has a schema that this version does not know: {error}",
            kept="the database as it is",
            next_step="use the version of Slipstream that wrote it, or a newer one",
        ) from error


def _revision(engine: Engine) -> str | None:
    try:
        with engine.connect() as connection:
            return connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
    except OperationalError:
        return None  # a new database has no such table


@contextlib.contextmanager
def _session(engine: Engine, path: Path) -> Iterator[Session]:
    try:
        with Session(engine, expire_on_commit=False) as session, session.begin():
            yield session
    except SQLAlchemyError as error:
        raise StoreError(f"the database {path} failed: {error}", kept="what was committed before") from error


def _engine(path: Path, synchronous: str, begin: str) -> Engine:
    engine = create_engine(f"sqlite:///{path}")

    # Recipe of SQLAlchemy's pysqlite page: the driver must not open transactions by itself.
    @event.listens_for(engine, "connect")
    def connected(connection: Any, _record: Any) -> None:
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute(f"PRAGMA synchronous={synchronous}")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begun(connection: Any) -> None:
        connection.exec_driver_sql(begin)

    return engine

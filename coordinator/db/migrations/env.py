"""Alembic's entry: runs the revisions on the connection that `coordinator.db.database` hands over."""

from alembic import context

from coordinator.db.models import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    render_as_batch=True,
)
context.run_migrations()

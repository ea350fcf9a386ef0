"""Reports that peers hand in: the devices' counts, when a report was written and who brought it."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("devices", sa.Column("sequence", sa.BigInteger(), nullable=False, server_default="0"))
    op.add_column("latest_reports", sa.Column("signed_at", sa.BigInteger()))
    op.add_column("latest_reports", sa.Column("via", sa.String(64)))
    op.add_column("latest_reports", sa.Column("quiet_s", sa.Integer(), nullable=False, server_default="0"))


def downgrade() -> None:
    for column in ("quiet_s", "via", "signed_at"):
        op.drop_column("latest_reports", column)
    op.drop_column("devices", "sequence")

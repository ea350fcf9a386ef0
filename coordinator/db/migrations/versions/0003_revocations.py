"""Which certificates were issued, and which are revoked."""

import hashlib

import sqlalchemy as sa
from alembic import op
from cryptography import x509
from cryptography.hazmat.primitives import serialization

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("devices", sa.Column("revoked_at", sa.BigInteger()))
    op.add_column("devices", sa.Column("revoked_reason", sa.String(16)))
    certificates = op.create_table(
        "certificates",
        sa.Column("digest", sa.String(64), primary_key=True),
        sa.Column("device", sa.String(64), nullable=False),
        sa.Column("key", sa.String(64), nullable=False),
        sa.Column("issued_at", sa.BigInteger(), nullable=False),
        sa.Column("not_after", sa.BigInteger(), nullable=False),
        sa.Column("revoked_at", sa.BigInteger()),
        sa.Column("revoked_reason", sa.String(16)),
    )
    op.create_index("ix_certificates_device", "certificates", ["device"])
    op.create_index("ix_certificates_key", "certificates", ["key"])
    rows = op.get_bind().execute(sa.text("SELECT id, key, certificate, enrolled_at, not_after FROM devices"))
    found = [
        {
            "digest": hashlib.sha256(
                x509.load_pem_x509_certificate(certificate.encode()).public_bytes(serialization.Encoding.DER)
            ).hexdigest(),
            "device": device,
            "key": hashlib.sha256(key.encode()).hexdigest(),
            "issued_at": enrolled_at,
            "not_after": not_after,
        }
        for device, key, certificate, enrolled_at, not_after in rows
    ]
    if found:
        op.bulk_insert(certificates, found)


def downgrade() -> None:
    op.drop_table("certificates")
    op.drop_column("devices", "revoked_reason")
    op.drop_column("devices", "revoked_at")

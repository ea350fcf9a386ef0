"""Checkpoints of the audit log: its head, signed by the online key, in a file of its own.

A chain in a database cannot show that its end was cut off. A checkpoint can, as long as it is kept where
whoever cuts the chain does not reach: copy `audit.checkpoint` away, and give it to `audit verify`.
"""

from __future__ import annotations

from pathlib import Path

from securesystemslib.exceptions import Error as SslibError
from securesystemslib.signer import Signature

from coordinator.domain.audit import Checkpoint
from coordinator.errors import DocumentRefused, KeyUnavailable
from coordinator.publishing.files import read_file
from coordinator.publishing.keys import open_signer
from coordinator.publishing.repository import Repository
from coordinator.publishing.state import State
from p2p.content.digests import parse_digest
from p2p.content.fields import dump_object, load_object
from p2p.errors import ContentError

CHECKPOINT_FILE = "audit.checkpoint"
DOCUMENT = "slipstream-audit-checkpoint"
_SIZE_MAX = 16 * 1024
_SEQ_MAX = 1 << 53


def write_checkpoint(repository: Repository, head: Checkpoint) -> None:
    """Sign and store the head of the log, unless it is stored already."""
    path = repository.directory / CHECKPOINT_FILE
    state = repository.state()
    if path.is_file():
        try:
            if read_checkpoint(path, state) == head:
                return
        except (ContentError, DocumentRefused):
            pass  # a damaged one is replaced; `audit verify` is where it is reported
    repository.write(path, sign_checkpoint(repository, state, head))


def sign_checkpoint(repository: Repository, state: State, head: Checkpoint) -> bytes:
    """A signed checkpoint document."""
    root = state.root.signed
    for keyid in root.roles["timestamp"].keyids:
        uri = repository.uri_of(root.keys[keyid])
        if uri is not None:
            signer = open_signer(uri, root.keys[keyid], repository.passphrases, service=True)
            signature = signer.sign(_payload(head))
            return dump_object(
                {
                    "_type": DOCUMENT,
                    "seq": head.seq,
                    "digest": head.digest,
                    "keyid": signature.keyid,
                    "signature": signature.signature,
                }
            )
    raise KeyUnavailable("the online key is not on this machine", kept="the audit log")


def read_checkpoint(path: Path, state: State) -> Checkpoint:
    """A checkpoint whose signature is good; raises `ContentError` or `DocumentRefused`."""
    fields = load_object(read_file(path, _SIZE_MAX), str(path), _SIZE_MAX)
    fields.constant("_type", DOCUMENT)
    digest = parse_digest(fields.text("digest"), f"{path}.digest").hex()
    head = Checkpoint(fields.integer("seq", 1, _SEQ_MAX), digest)
    keyid, signature = fields.text("keyid"), fields.text("signature")
    fields.finish()
    root = state.root.signed
    try:
        if keyid not in root.roles["timestamp"].keyids:
            raise KeyError(keyid)
        root.keys[keyid].verify_signature(Signature(keyid, signature), _payload(head))
    except (SslibError, KeyError, ValueError) as error:
        raise DocumentRefused("bad-signature", f"{path} is not signed by the online key") from error
    return head


def _payload(head: Checkpoint) -> bytes:
    return dump_object({"_type": DOCUMENT, "seq": head.seq, "digest": head.digest})

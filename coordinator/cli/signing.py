"""What `release sign` and `order sign` share: show what a document would do, ask, sign, write it back."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from coordinator.cli.common import (
    DIRECTORY,
    EXISTING,
    describe_review,
    passphrase_options,
    signature_line,
    signer_for,
)
from coordinator.errors import KeyUnavailable
from coordinator.publishing.keys import Passphrases
from coordinator.publishing.proposal import Proposal, read_proposal, review, sign, write_proposal
from coordinator.publishing.repository import Repository
from p2p.errors import OperatorError

_F = TypeVar("_F", bound=Callable[..., Any])


def signing_options(function: _F) -> _F:
    """The argument and options of the commands that sign a document (see `sign_document`)."""
    for option in (
        passphrase_options,
        click.option("--yes", is_flag=True, help="Do not ask."),
        click.option("--repo", "repo_dir", type=DIRECTORY, help="Sign with the keys of this repository."),
        click.option("--keyid", help="Which key of the role is at the URI."),
        click.option(
            "--key", "keys", multiple=True, metavar="KEY", help="Key file, or URI of a key elsewhere."
        ),
        click.argument("document", type=EXISTING),
    ):
        function = option(function)
    return function


def sign_document(
    document: Path,
    keys: tuple[str, ...],
    keyid: str | None,
    repo_dir: Path | None,
    yes: bool,
    passphrases: Passphrases,
) -> None:
    """Show, ask, sign, write: what `release sign` and `order sign` do."""
    proposal = read_proposal(document)
    found = review(proposal)
    signers = [signer_for(key, proposal, passphrases, keyid) for key in keys]
    for line in describe_review(proposal, found, signers[0] if signers else None):
        click.echo(line)
    click.echo("")
    if not keys and repo_dir is None:
        raise OperatorError("nothing was signed", next_step="give --key KEY (or --repo DIR for its own keys)")
    if not yes and sys.stdin is not None and sys.stdin.isatty():
        click.confirm("Sign this?", abort=True)
    for signer in signers:
        sign(proposal, signer)
    if repo_dir is not None:
        _sign_with_repository(proposal, Repository.open(repo_dir, passphrases))
    write_proposal(document, proposal)
    click.echo(signature_line(proposal))


def _sign_with_repository(proposal: Proposal, repository: Repository) -> None:
    threshold, keys = repository.state().delegation(proposal.role)
    before = len(proposal.metadata.signatures)
    after = repository.sign_with_local_keys(proposal.metadata, keys, threshold, proposal.role)
    if after == before and after < threshold:
        raise KeyUnavailable(
            f"{repository.directory} has no private key of {proposal.role}", next_step="give --key KEY"
        )

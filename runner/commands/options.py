"""Options that several commands have."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runner.config.model import Sandboxes
    from runner.lease_sources import Source


def source_of(settings: Sandboxes) -> Source:
    """Return the source that the settings name, by default the keeper. Errors: BadJobError; InputError."""
    from runner import lease_sources  # noqa: PLC0415 - what only talks to the service does not pay for SSH

    if not settings.addresses:
        return lease_sources.keeper(settings.keeper)
    return lease_sources.addresses(
        settings.addresses,
        settings.identity,
        settings.known_hosts.expanduser(),
        settings.address_state,
        settings.folder,
    )

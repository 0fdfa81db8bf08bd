"""What the runner tells in its log: its actions. How they are written is `sandbox.logs`."""

from __future__ import annotations

from enum import StrEnum

from sandbox.logs import EventLog, Format, Subject, configure

__all__ = ["Action", "Events", "Format", "Subject", "configure"]


class Action(StrEnum):
    """What happened, by a name that does not change. `docs/logs.md` has them all."""

    SERVING = "serving"
    """The service takes jobs from now on."""
    CONFIGURATION_REMARK = "configuration_remark"
    """Something about the configuration that its author should know."""
    CONFIGURATION_READ = "configuration_read"
    """The service goes on with its configuration as it is now."""
    CONFIGURATION_REFUSED = "configuration_refused"
    """The configuration is wrong; the service goes on with what it has."""
    FOUND_AGAIN = "found_again"
    """Jobs of an earlier life of the service go on."""
    WORKING = "working"
    """Jobs that wait start again."""
    DRAINING = "draining"
    """Nothing more starts; what runs goes on."""
    STOPPING = "stopping"
    """No more jobs are taken, and the service ends when nothing runs any more."""
    ABORTING = "aborting"
    """The service ends, and what runs is ended."""
    LEAVING = "leaving"
    """The service ends, and what runs is left running for its next life."""
    DISK_WELL = "disk_well"
    """The disk of the state folder has room again."""
    DISK_LOW = "disk_low"
    """The disk of the state folder is short: no more jobs start."""
    DISK_FULL = "disk_full"
    """The disk of the state folder is shorter still: nor are jobs taken."""
    FORGOTTEN = "forgotten"
    """Old jobs were removed, with their logs."""
    LEFTOVERS_REMOVED = "leftovers_removed"
    """Folders that crashed processes had left are gone."""
    CANCELLED = "cancelled"
    """A client asked for a job's end."""
    DENIED = "denied"
    """A token was used for what it has no scope for."""
    SUBMITTED = "submitted"
    """A client handed a job in."""
    QUEUED = "queued"
    """A job waits, and is on disk."""
    LENDING = "lending"
    """A sandbox is asked for."""
    LEASED = "leased"
    """There is a sandbox."""
    CAVEAT = "caveat"
    """The sandbox is not all that it could be."""
    RETRY = "retry"
    """A sandbox broke before anything was sent, and another one is tried."""
    STARTED = "started"
    """The script was sent to the sandbox."""
    LOST = "lost"
    """The connection to the sandbox broke; a new one is tried."""
    STEP = "step"
    """A step of a job began or is over."""
    RESUMED = "resumed"
    """The script was found again in the sandbox."""
    REMARK = "remark"
    """Something about the job that its user should know."""
    ENDED = "ended"
    """A job has its outcome."""
    CONDEMNED = "condemned"
    """A sandbox is not used again."""
    NOTE = "note"
    """Anything else on a job's way."""
    LEFT = "left"
    """A job is left for the next life of the service."""
    OVER = "over"
    """A GitLab job is over: its cleanup came, nobody came for it, or the service was stopped."""
    STORE_FAILED = "store_failed"
    """Something could not be written to the state folder, or read from it; it is tried again."""
    STANDBY_FAILED = "standby_failed"
    """No sandbox is prepared in advance; jobs start a moment later."""
    LEASE_RETURNED = "lease_returned"
    """A sandbox that an earlier life of the service had leased was given back."""
    LEASE_CALL_FAILED = "lease_call_failed"
    """A lease could not be renewed, given back or ended as it should."""
    HOOK_UNREADABLE = "hook_unreadable"
    """What connected as gitlab-runner's hook sent no request."""
    TOKEN_CREATED = "token_created"  # noqa: S105 - a name
    """A token of the API was made."""
    TOKEN_REVOKED = "token_revoked"  # noqa: S105 - a name
    """A token of the API is worth nothing any more."""
    WEBHOOK_FAILED = "webhook_failed"
    """A receiver of webhooks did not take a message; it is sent again, or given up."""
    DEFECT = "defect"
    """The runner met an error of its own. Please report it."""

    @classmethod
    def of_note(cls, name: str) -> Action:
        """The action of a note on an attempt's way (`runner.execution.options.Note`)."""
        return cls(name) if name in _NAMES else cls.NOTE


_NAMES = frozenset(Action)


class Events(EventLog[Action]):
    """Events of this package."""

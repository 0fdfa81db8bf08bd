"""The log: events, each with the name of its action, as text for people or as JSON for machines.

All events of both packages go through here. The runner's `logs` adds its own actions, so that both processes' logs read
alike. Elsewhere, `logging` is used only to quiet a library. A name chosen by a job can neither break a line nor steer a
terminal.
"""

import json
import logging
import sys
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final, Generic, TypedDict, TypeVar, Unpack

from sandbox.text import one_line

LIBRARY: Final = "library"
"""The action of a library's own messages."""


class Format(StrEnum):
    """How the log is written."""

    TEXT = "text"
    """For people: a line with time, process and sentence; a traceback's lines are indented."""
    JSON = "json"
    """For machines: an object on each line, its sentence under `message`."""


class Action(StrEnum):
    """What happened, by a name that does not change. `docs/logs.md` has them all."""

    PROFILE_KEPT = "profile_kept"
    """From its start on, the keeper keeps sandboxes of this profile."""
    RUNTIME_WEAKER = "runtime_weaker"
    """A profile's runtime is not the wall that sysbox-runc is."""
    LEFTOVERS_REMOVED = "leftovers_removed"
    """The leftovers of an earlier life of the keeper were removed."""
    TAKEN_OVER = "taken_over"
    """A sandbox of an earlier life of the keeper goes on."""
    NOT_TAKEN_OVER = "not_taken_over"
    """A sandbox of an earlier life of the keeper was not proven to be the same, and is removed."""
    CONFIGURATION_READ = "configuration_read"
    """The keeper goes on with its configuration as it is now."""
    CONFIGURATION_REMARK = "configuration_remark"
    """Something about the configuration that its author should know."""
    CONFIGURATION_REFUSED = "configuration_refused"
    """The configuration is wrong; the keeper goes on with what it has."""
    RECONCILE_FAILED = "reconcile_failed"
    """The keeper could not look after its sandboxes; it tries again."""
    GAVE_UP = "gave_up"
    """Only a new keeper process can go on, and this one ends."""
    HOST_CHANGED = "host_changed"
    """The host works, is suspected, is wedged, or lacks its runtime's daemons; or somebody else is to blame now."""
    IMAGE_TRIED = "image_tried"
    """A profile's image has a new meaning, and one sandbox tries it."""
    IMAGE_TAKEN = "image_taken"
    """A new image is fit, and replaces the one before."""
    IMAGE_REFUSED = "image_refused"
    """A new image is not fit; sandboxes are made from the one before."""
    IMAGE_GONE = "image_gone"
    """An image that sandboxes are made from was removed."""
    READY = "ready"
    """A new sandbox was proven fit."""
    LENT = "lent"
    """An attempt has a sandbox."""
    RESUMED = "resumed"
    """An attempt has its sandbox again."""
    JOB_ENDED = "job_ended"
    """The processes that a job left running were ended from the host."""
    CONDEMNED = "condemned"
    """A sandbox serves no job any more: it is recreated, or held."""
    HELD = "held"
    """A sandbox is kept for a person."""
    ENTERED = "entered"
    """A person goes into a held sandbox."""
    REMOVED_LATE = "removed_late"
    """Something that the engine finished after it was given up was removed, or a leftover of a profile that is gone."""
    REMOVAL_FAILED = "removal_failed"
    """Something could not be removed; it is tried again."""
    WALLS_PUT_BACK = "walls_put_back"
    """Somebody had changed the firewall table around the sandboxes."""
    UNWALLED = "unwalled"
    """A sandbox has no walls around it."""
    DISK_SHORT = "disk_short"
    """The host's disk has no room for another job."""
    DISK_WELL = "disk_well"
    """The host's disk has room again."""
    DISK_ACT_FAILED = "disk_act_failed"
    """An act for the host's disk, such as freezing a sandbox, failed."""
    DISK_UNKNOWN = "disk_unknown"
    """A sandbox's disk usage could not be measured."""
    RECORD_FAILED = "record_failed"
    """A sandbox's record for a later keeper could not be written, read or removed."""
    REQUEST_FAILED = "request_failed"
    """A request over the keeper's socket could not be answered."""
    CLIENT_LEFT = "client_left"
    """A client of the keeper's socket went away before its answer."""
    WAITING = "waiting"
    """The keeper was stopped, and running jobs end first."""
    LEFT_RUNNING = "left_running"
    """Sandboxes with jobs are left for the next keeper."""
    PROGRESS = "progress"
    """Progress in making a sandbox, for a program that uses the library."""
    STOPPED = "stopped"
    """The keeper ended."""
    DEFECT = "defect"
    """The keeper met an error of its own. Please report it."""


class Subject(TypedDict, total=False):
    """What an event is about, as far as it applies."""

    job: str
    """Id of a job of the runner's queue."""
    gitlab_job: str
    sandbox: str
    attempt: str
    who: str
    """The name of the used token, or of who asked."""


_LEADS: Final = {"job": "job {}: ", "gitlab_job": "GitLab job {}: ", "sandbox": "{}: "}
"""The start of a sentence: the first of these that the event is about."""

_A = TypeVar("_A", bound=StrEnum)


class EventLog(Generic[_A]):
    """Logs events under one name, such as `keeper`. Callers pass no secrets, as nothing here hides any."""

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def info(self, action: _A, sentence: str, **subject: Unpack[Subject]) -> None:
        """Log a normal event."""
        self._tell(logging.INFO, action, sentence, None, subject)

    def warning(
        self, action: _A, sentence: str, *, error: BaseException | None = None, **subject: Unpack[Subject]
    ) -> None:
        """Log something that somebody should know, while work goes on. With `error`, add its traceback."""
        self._tell(logging.WARNING, action, sentence, error, subject)

    def error(
        self, action: _A, sentence: str, *, error: BaseException | None = None, **subject: Unpack[Subject]
    ) -> None:
        """Log something that does not work. With `error`, add its traceback."""
        self._tell(logging.ERROR, action, sentence, error, subject)

    def _tell(self, level: int, action: _A, sentence: str, error: BaseException | None, subject: Subject) -> None:
        lead = next((text.format(subject[key]) for key, text in _LEADS.items() if key in subject), "")  # type: ignore[literal-required]
        extra = {"action": action, "subject": subject}
        self._logger.log(level, "%s%s", lead, sentence, exc_info=error, extra=extra)


class Events(EventLog[Action]):
    """The events of this package."""


def configure(style: Format) -> None:
    """Write all events to stderr in this format, those of libraries as well."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter({Format.TEXT: TextLines, Format.JSON: JsonLines}[style]())
    logging.basicConfig(level=logging.INFO, handlers=[handler])


class TextLines(logging.Formatter):
    """Formats as `Format.TEXT`."""

    def format(self, record: logging.LogRecord) -> str:
        """Write one line, and a traceback's lines indented."""
        line = f"{self.formatTime(record)} {record.name}: {one_line(record.getMessage())}"
        return "\n    ".join([line, *map(one_line, _traceback(record))])


class JsonLines(logging.Formatter):
    """Formats as `Format.JSON`."""

    def format(self, record: logging.LogRecord) -> str:
        """Write one line of pure ASCII: JSON escapes everything else."""
        event = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "action": getattr(record, "action", LIBRARY),
            **getattr(record, "subject", {}),
            "message": record.getMessage(),
        }
        if lines := list(_traceback(record)):
            event["traceback"] = "\n".join(lines)
        return json.dumps(event)


def _traceback(record: logging.LogRecord) -> Iterator[str]:
    if record.exc_info and record.exc_info[1]:
        for part in traceback.format_exception(record.exc_info[1]):
            yield from part.rstrip("\n").split("\n")

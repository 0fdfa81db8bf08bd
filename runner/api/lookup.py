"""The jobs that requests name by their ids. Each function raises ApiError when no job has the id."""

from __future__ import annotations

from http import HTTPStatus
from typing import TypeVar

from runner.api.problems import ApiError
from runner.service.record import Record
from runner.service.records import Records
from runner.store.jobs import Summary
from runner.store.threads import reading

_T = TypeVar("_T")


async def record_of(records: Records, job_id: str) -> Record:
    """Return the job itself."""
    return _known(await records.get(job_id))


async def summary_of(records: Records, job_id: str) -> Summary:
    """Return the public facts about the job."""
    return _known(await reading(records.summary, job_id))


def _known(found: _T | None) -> _T:
    if found is None:
        raise ApiError(HTTPStatus.NOT_FOUND, "There is no job of that id; the oldest ones are forgotten.")
    return found

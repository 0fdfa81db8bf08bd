"""Turns errors of the libraries and of the engine into our own errors and sentences."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import requests
import urllib3
from docker.errors import APIError, DockerException, NotFound, StreamParseError

from sandbox.calls import Step
from sandbox.engine import advice
from sandbox.engine.call import MAX_ANSWER, Call
from sandbox.errors import EngineError, EngineTimeout, EngineUnreachable
from sandbox.text import one_line

_MAKING = (Step.CREATE, Step.CREATE_NETWORK, Step.CREATE_VOLUME)


class NotThere(EngineError):
    """The thing asked about does not exist (any more)."""


class NetworkMissing(EngineError):
    """A container cannot be created, or started, because its network does not exist (yet)."""


class NameTaken(EngineError):
    """A container or network has that name already, such as one whose create was given up and finished later."""


class ImageUnfit(EngineError):
    """The image lacks its program or user, so that none of its containers can ever run."""


class SubnetTaken(EngineError):
    """Another network has taken these addresses."""


class RemovalUnderWay(EngineError):
    """Somebody is removing it already, perhaps a call of ours that was given up."""


class StaleSocket(EngineUnreachable):
    """The engine has removed this socket, and a mount keeps it in place: nobody will ever answer on it."""


_CONFLICTS: Sequence[tuple[Sequence[Step], type[EngineError]]] = (
    (_MAKING, NameTaken),
    ((Step.REMOVE,), RemovalUnderWay),
)
"""What the engine means by 409, depending on the question."""
_UNFIT = re.compile(
    # After these words the runtime names the container's own program, not one of the host's.
    r'container process(:| caused:) (error during container init: )?exec: "|unable to find user|no command specified',
    re.IGNORECASE,
)
"""What engine and runtime say of an unfit image. No status shows it: a runtime whose service is down has the same."""


def in_our_words(step: Step, error: Exception, call: Call, seconds: float) -> Exception:
    """Convert the error of a call. Returns errors of other origins than the libraries or the system unchanged."""
    match error:
        case APIError():
            return _refused(step, error)
        case RecursionError() | StreamParseError() | requests.exceptions.InvalidJSONError():
            return EngineError(_makes_no_sense(step, error))
        case DockerException() | requests.RequestException() | urllib3.exceptions.HTTPError() | OSError():
            return _ended_by_us(step, call, seconds) or _broken(step, error, call)
        case _:
            return error


def _refused(step: Step, error: APIError) -> EngineError:
    sentence = f"The Docker Engine refused '{step}': {_said(error)}"
    if step in (Step.CREATE, Step.START) and _UNFIT.search(_said(error)):
        return ImageUnfit(sentence)
    if isinstance(error, NotFound):
        its_network = step in (Step.CREATE, Step.START) and re.search(r"\bnetwork .* not found", _said(error))
        return NetworkMissing(sentence) if its_network else NotThere(sentence)
    if step is Step.CREATE_NETWORK and "overlaps" in _said(error):
        return SubnetTaken(sentence)
    if error.status_code == requests.codes.conflict:
        return next((kind(sentence) for steps, kind in _CONFLICTS if step in steps), EngineError(sentence))
    return EngineError(sentence)


def _ended_by_us(step: Step, call: Call, seconds: float) -> EngineError | None:
    """Return the call's own reason for its end, which is surer than the libraries' reading of it."""
    if call.is_flooded:
        return EngineError(f"The Docker Engine answered '{step}' with more than {MAX_ANSWER} bytes; they were dropped.")
    if call.is_late:
        return EngineTimeout(f"The Docker Engine did not finish '{step}' within {seconds:.0f} s.")
    return None


def _broken(step: Step, error: Exception, call: Call) -> EngineError:
    """Return the error of a call that got no answer."""
    if isinstance(error, DockerException):
        return EngineError(f"The Docker Engine could not '{step}': {_short(error)}")
    if call.connected:
        return EngineUnreachable(
            f"The Docker Engine hung up, or sent no HTTP, in the middle of '{step}': {_short(error)}"
        )
    if call.is_stale:
        return StaleSocket(advice.stale_socket())
    return EngineUnreachable(advice.unreachable(error))


@contextmanager
def understood(step: Step) -> Iterator[None]:
    """Turn errors of reading an answer of unexpected shape into an `EngineError`."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise EngineError(_makes_no_sense(step, error)) from error


def _makes_no_sense(step: Step, error: Exception) -> str:
    return f"The Docker Engine's answer to '{step}' makes no sense: {type(error).__name__} {_short(error)}"


def _said(error: APIError) -> str:
    return one_line(str(error.explanation).strip())[:500]


def _short(error: Exception) -> str:
    return one_line(str(error))[:200]


def items_of(answer: object) -> list[Any]:
    """Return a listing's items. Raises `TypeError` for anything else, which would read as an empty listing."""
    if answer is None:  # Go's way to write an empty list
        return []
    if not isinstance(answer, list):
        raise TypeError(f"a list was expected, not {type(answer).__name__}")
    return answer

"""An event is one line, whatever text a job has chosen."""

import io
import json
import logging
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.logs import LIBRARY, Action, Events, JsonLines, Subject, TextLines

HOSTILE = "x\n2026-01-01 00:00:00,000 keeper: sandbox-1: lent\r\x1b[2J\u2028\x85\udcff"


def written(formatter: logging.Formatter, tell: Callable[[Events], object]) -> str:
    """What one event is in the log."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    logger = logging.getLogger("tests.logs")
    logger.setLevel(logging.INFO)
    logger.handlers, logger.propagate = [handler], False
    tell(Events("tests.logs"))
    assert stream.getvalue().endswith("\n")
    return stream.getvalue()[:-1]


def event(tell: Callable[[Events], object]) -> dict[str, Any]:
    line = written(JsonLines(), tell)
    assert line.isascii()
    parsed: dict[str, Any] = json.loads(line)
    return parsed


def failed(message: str) -> Exception:
    try:
        raise ValueError(message)  # noqa: TRY301 - it gets a traceback
    except ValueError as error:
        return error


@given(st.text())
def test_text_is_one_printable_line(text: str) -> None:
    line = written(TextLines(), lambda log: log.info(Action.LENT, text, sandbox=text))
    assert line.isprintable()


@given(st.text())
def test_json_is_one_line_and_has_the_text_as_it_was(text: str) -> None:
    found = event(lambda log: log.info(Action.LENT, text, sandbox=text, attempt="a-1"))
    assert found["message"] == f"{text}: {text}"
    assert (found["action"], found["sandbox"], found["attempt"]) == ("lent", text, "a-1")


def test_a_traceback_that_quotes_a_job_cannot_pretend_to_be_an_event() -> None:
    first, *others = written(
        TextLines(), lambda log: log.error(Action.DEFECT, "a defect", error=failed(HOSTILE))
    ).split("\n")
    assert first.endswith("a defect")
    assert all(line.startswith("    ") and line.isprintable() for line in others)
    assert any("ValueError" in line for line in others)


def test_json_has_the_traceback_apart() -> None:
    found = event(lambda log: log.warning(Action.DEFECT, "a defect", error=failed("why"), job="7"))
    assert found["message"] == "job 7: a defect"
    assert found["traceback"].endswith("ValueError: why")
    assert (found["level"], found["logger"], found["job"]) == ("warning", "tests.logs", "7")


@pytest.mark.parametrize(
    ("subject", "lead"), [({"job": "1"}, "job 1: "), ({"gitlab_job": "2"}, "GitLab job 2: "), ({"who": "ci"}, "")]
)
def test_a_sentence_begins_with_whom_it_is_about(subject: Subject, lead: str) -> None:
    assert event(lambda log: log.info(Action.LENT, "so", **subject))["message"] == f"{lead}so"


def test_a_percent_sign_of_a_job_is_a_percent_sign() -> None:
    # The trap: a finished sentence as logging's format string, with `%s` in a sandbox's words.
    assert written(TextLines(), lambda log: log.info(Action.LENT, "100 %s %d")).endswith("100 %s %d")


def test_what_a_library_tells_has_an_action_too() -> None:
    found = event(lambda _: logging.getLogger("tests.logs").warning("%s said", "uvicorn"))
    assert (found["action"], found["message"]) == (LIBRARY, "uvicorn said")

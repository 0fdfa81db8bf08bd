"""A child is asked, answers in time or is ended, and shares nothing with the next one."""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from sandbox import child
from sandbox.child import NoAnswer
from tests.sandbox.children import complains, fails, hangs, obeys

SLACK = 1.0


def soon(seconds: float = 10.0) -> float:
    return time.monotonic() + seconds


def obey(code: str, deadline: float | None = None) -> str:
    """Have a child run Python, and return what it printed."""
    return child.ask(obeys.__name__, code.encode(), deadline or soon()).decode()


def test_it_answers() -> None:
    assert obey("print(6 * 7)") == "42\n"


def test_an_answer_is_as_long_as_it_is() -> None:
    """More than any pipe or message takes."""
    assert obey("print('x' * 5_000_000)") == "x" * 5_000_000 + "\n"


def test_one_that_hangs_is_killed_with_its_time() -> None:
    began = time.monotonic()
    with pytest.raises(NoAnswer, match="did not end in time"):
        child.ask(hangs.__name__, b"", soon(0.3))
    assert time.monotonic() - began < 0.3 + SLACK


def test_one_that_fails_says_why_on_one_line() -> None:
    with pytest.raises(NoAnswer, match=r"it ended with 1: no \[31m way$"):
        child.ask(fails.__name__, b"", soon())


def test_its_code_is_told() -> None:
    with pytest.raises(NoAnswer, match="it ended with 7: why") as caught:
        child.ask(complains.__name__, b"why", soon())
    assert caught.value.code == 7


def test_one_that_is_killed_gives_no_code() -> None:
    """As when the kernel ends a confined one for a call of another architecture."""
    with pytest.raises(NoAnswer, match="it was killed") as caught:
        obey("import os; os.kill(os.getpid(), 9)")
    assert caught.value.code is None


def test_what_it_leaves_unsaid_is_not_taken_for_an_answer() -> None:
    """The trap: the end of a child whose output did not fit looks like success once its code is written."""
    code = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (1, 1)); sys.stdout.write('x' * 100)"
    with pytest.raises(NoAnswer):
        obey(code)


def test_a_module_that_is_not_there_is_no_answer() -> None:
    with pytest.raises(NoAnswer, match="could not be started"):
        child.ask("tests.sandbox.children.unborn", b"", soon())
    assert obey("print(1)") == "1\n"


def test_none_finds_what_another_did() -> None:
    """One changes a module that both have, and its folder; the other has both as they were loaded."""
    obey("import json, os; json.loads = None; os.chdir('/tmp')")
    assert obey("import json, os; print(json.loads('1'), os.getcwd())") == "1 /\n"


def test_it_has_its_four_files_and_no_others() -> None:
    """Neither another child's, nor the socket on which children are asked for."""
    assert len(obey("import os; print(*os.listdir('/proc/self/fd'))").split()) == 4 + 1  # and the listing's own


def test_it_has_no_environment() -> None:
    assert obey("import os; print(dict(os.environ))").strip() in ("{}", "{'LC_CTYPE': 'C.UTF-8'}")


def test_many_at_once() -> None:
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda number: obey(f"print({number})"), range(40)))
    assert answers == [f"{number}\n" for number in range(40)]


def test_a_nursery_that_was_killed_is_started_again() -> None:
    parent = int(obey("import os; print(os.getppid())"))
    os.kill(parent, signal.SIGKILL)
    assert int(until_answered("import os; print(os.getppid())")) != parent


def until_answered(code: str) -> str:
    """For a moment after its end a nursery still takes questions, and does not hear them."""
    end = soon()
    while True:
        try:
            return obey(code)
        except NoAnswer:
            assert time.monotonic() < end


def test_ctrl_c_in_a_terminal_is_not_for_it() -> None:
    """A keeper that is asked to stop still looks at what comes back."""
    parent = int(obey("import os; print(os.getppid())"))
    os.kill(parent, signal.SIGINT)
    assert int(obey("import os; print(os.getppid())")) == parent


def open_files() -> set[tuple[str, str]]:
    """Of this process: the number of each, and what it is."""
    found = set()
    for path in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the folder itself was open too
            found.add((path.name, str(path.readlink())))
    return found


def test_nothing_is_left_of_one_that_hung() -> None:
    obey("")
    parent = child._nursery._process
    assert parent
    before = open_files()
    with pytest.raises(NoAnswer):
        child.ask(hangs.__name__, b"", soon(0.1))
    children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
    end = soon(5)
    while (left := children.read_text()) and time.monotonic() < end:
        time.sleep(0.01)
    assert left == ""
    assert open_files() - before == set()  # what other tests left may go meanwhile

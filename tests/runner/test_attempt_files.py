"""A job's source and artifacts as part of an attempt: their effects on its outcome, and the limits of these."""

from __future__ import annotations

import asyncio
import io
import tarfile
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from runner.errors import DetachedError
from runner.execution.attempt import resume_attempt, run_attempt
from runner.execution.cancellation import Cancellation
from runner.execution.files import bundle, take_out
from runner.execution.files.jobs import JobFiles
from runner.execution.files.limits import FileLimits
from runner.execution.log import Log
from runner.job import Job
from runner.outcome import BadSource, Cancelled, Limit, Outcome, ScriptFailed, Succeeded, TimedOut
from runner.source_and_artifacts import Artifacts, Git, Upload, When
from tests.runner.conftest import Bench, closing
from tests.runner.files.origin import silent
from tests.waiting import eventually

pytestmark = pytest.mark.anyio

RULES = (Artifacts(paths=["out/**"], when=When.ALWAYS), Artifacts(paths=["core"], when=When.ON_FAILURE))


@dataclass
class Case:
    """One job with files."""

    bench: Bench
    bundle: Path
    upload: Path

    def files(self, **more: object) -> JobFiles:
        return JobFiles(bundle=self.bundle, upload=self.upload, **more)  # type: ignore[arg-type]

    async def run(self, script: str, files: JobFiles, **job: object) -> Outcome:
        bench = self.bench
        log = bench.new_log()
        return await run_attempt(
            bench.leases,
            Job(script.encode(), **job),  # type: ignore[arg-type]
            log,
            bench.cancellation,
            settings=bench.settings,
            on_start=bench.mark,
            on_end=closing(log),
            files=files,
        )

    def send(self, **files: str) -> None:
        """Have an archive that came with the job."""
        with tarfile.open(self.upload, "w:gz") as tar:
            for name, text in files.items():
                info = tarfile.TarInfo(name)
                info.size = len(text)
                tar.addfile(info, io.BytesIO(text.encode()))

    @property
    def kept(self) -> list[str]:
        kept = bundle.read(self.bundle)
        return sorted(member.path for member in kept.members) if kept else []


@pytest.fixture
def case(bench: Bench, tmp_path: Path) -> Case:
    return Case(bench, tmp_path / "kept" / "job", tmp_path / "upload")


UPLOAD = Upload(id="0" * 32)


async def test_a_script_finds_its_source_and_nothing_else(case: Case) -> None:
    workspace = Path(case.bench.settings.workspace)
    workspace.mkdir(exist_ok=True)
    (workspace / "left").touch()
    case.send(**{"src/a": "text"})
    outcome = await case.run("ls; cat src/a", case.files(source=UPLOAD))
    assert (outcome, case.bench.output) == (Succeeded(), b"src\ntext")
    assert case.bench.leases.calls == ["give_back:used"]
    assert await case.run("ls", case.files()) == Succeeded()
    assert case.bench.output == b""


async def test_a_bad_source_starts_nothing_and_the_sandbox_is_looked_at(case: Case) -> None:
    case.upload.write_bytes(b"no archive")
    outcome = await case.run("echo up", case.files(source=UPLOAD))
    assert isinstance(outcome, BadSource)
    assert "no tar archive" in outcome.why
    assert (case.bench.markers, case.bench.output) == ([], b"")
    assert case.bench.leases.calls == ["give_back:used"]


async def test_a_host_that_hangs_ends_with_the_setup_timeout(case: Case) -> None:
    with silent() as host:
        source = Git(url=f"http://127.0.0.1:{host.getsockname()[1]}/r", commit="0" * 40)
        running = asyncio.create_task(case.run("echo up", case.files(source=source)))
        host.settimeout(20)
        connection, _ = await asyncio.to_thread(host.accept)  # git is there, and waits for an answer
        case.bench.cancellation.expire(Limit.SETUP)
        assert await running == TimedOut(Limit.SETUP)
        connection.close()
    assert case.bench.markers == []


@pytest.mark.parametrize(
    ("script", "outcome", "kept"),
    [
        ("mkdir -p out/x; echo 1 >out/x/a; touch core", Succeeded(), ["out/x/a"]),
        ("mkdir out; echo 1 >out/a; touch core; exit 3", ScriptFailed(3), ["core", "out/a"]),
        ("mkdir out; echo 1 >out/a; sleep 60", TimedOut(Limit.JOB), ["out/a"]),
    ],
)
async def test_artifacts_are_kept_however_the_script_ended(
    case: Case, script: str, outcome: Outcome, kept: list[str]
) -> None:
    timeout = 1.0 if isinstance(outcome, TimedOut) else 60.0
    assert await case.run(script, case.files(rules=RULES), timeout=timeout) == outcome
    assert case.kept == kept
    assert case.bench.leases.calls[-1] == "give_back:used"


async def test_what_cannot_be_kept_changes_no_outcome_and_stands_in_the_log(case: Case) -> None:
    files = replace(case.files(rules=RULES), limits=FileLimits(artifact_bytes=10))
    assert await case.run("mkdir out; seq 100 >out/a", files) == Succeeded()
    assert "runner: An artifact is not kept: out/a: its 292 bytes are more" in case.bench.closing
    assert case.bench.closing.endswith("runner: The script succeeded.\n")


async def test_a_cancelled_job_is_not_held_up_by_artifacts(case: Case) -> None:
    running = asyncio.create_task(case.run("mkdir out; touch out/a; echo ready; sleep 60", case.files(rules=RULES)))
    await eventually(lambda: bool(case.bench.logs))
    await case.bench.until_output(b"ready")
    case.bench.cancellation.request("the user")
    assert await running == Cancelled("the user")
    assert case.kept == []


async def test_a_cancel_ends_the_collection_and_not_the_outcome(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    reached = asyncio.Event()

    async def hang(*_: object) -> list[str]:
        reached.set()
        await asyncio.Event().wait()
        return []

    monkeypatch.setattr("runner.execution.attempt.take_out", hang)
    running = asyncio.create_task(case.run("true", case.files(rules=RULES)))
    await asyncio.wait_for(reached.wait(), 20)
    case.bench.cancellation.request("the user")
    assert await running == Succeeded()
    assert "The artifacts are not kept: the job was ended while" in case.bench.closing


async def test_a_runner_that_leaves_while_it_collects_collects_again(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The promise: at least once. The next life finds the script ended, and its files where they were."""
    reached = asyncio.Event()

    async def hang(*_: object) -> list[str]:
        reached.set()
        await asyncio.Event().wait()
        return []

    with monkeypatch.context() as patch:
        patch.setattr("runner.execution.attempt.take_out", hang)
        running = asyncio.create_task(case.run("mkdir out; echo 1 >out/a; exit 7", case.files(rules=RULES)))
        await asyncio.wait_for(reached.wait(), 20)
        case.bench.cancellation.detach()
        with pytest.raises(DetachedError):
            await running
    assert case.bench.leases.calls == []
    log = Log.reopen(case.bench.logs[-1].path)
    outcome = await resume_attempt(
        case.bench.leases,
        case.bench.markers[-1],
        log,
        Cancellation(),
        settings=case.bench.settings,
        on_end=closing(log),
        files=case.files(rules=RULES),
    )
    assert (outcome, case.kept) == (ScriptFailed(7), ["out/a"])
    assert case.bench.leases.calls == ["give_back:used"]


async def test_the_deadline_of_a_collection_ends_it(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        take_out, "_PROGRAM", replace(take_out._PROGRAM, arguments=("-c", "import time; time.sleep(99)"))
    )
    files = replace(case.files(rules=RULES), limits=FileLimits(artifact_deadline=0.5))
    assert await case.run("true", files) == Succeeded()
    assert "it took longer than 0.5 s" in case.bench.closing

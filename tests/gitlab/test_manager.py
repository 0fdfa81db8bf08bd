"""The simulator does what the real manager was seen to do. Each behaviour that the hooks must bear has a test here."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.gitlab.hook import Graces
from tests.gitlab.manager import Config, Manager, Result, Status
from tests.gitlab.scripts import quote
from tests.waiting import until

BASH_HOOKS = str(Path(__file__).parent / "bash_hooks" / "hooks")
NO_SOURCES = {"key": "GIT_STRATEGY", "value": "none"}
USUAL = ("config", "prepare", "prepare_script", "get_sources", "build_script", "cleanup_file_variables", "cleanup")


class Lab:
    """A folder for the manager's temporary folders and for what the hooks note down."""

    def __init__(self, folder: Path) -> None:
        self.temp, self.notes = folder / "temp", folder / "notes"
        self.temp.mkdir()
        self.notes.mkdir()
        self.config = Config(
            (BASH_HOOKS,),
            {**os.environ, "BASH_HOOKS": str(folder / "jobs"), "NOTES": str(self.notes), "TMPDIR": "/nonexistent"},
            Graces(term=5.0, kill=5.0),
            temp=self.temp,
        )

    def hooks(self, **cases: str) -> None:
        """Hooks written for a test: shell text by hook name; those that are not given are the plain ones."""
        file = self.notes / "hooks"
        lines = "".join(f"{name})\n{text}\n;;\n" for name, text in cases.items())
        file.write_text(f'#!/bin/bash\ncase $1 in\n{lines}*) exec {BASH_HOOKS} "$@" ;;\nesac\n')
        file.chmod(0o755)
        self.config = replace(self.config, hooks=(str(file),))

    def run(self, script: list[str], *, prepare: Callable[[Manager], None] = lambda _: None, **more: object) -> Result:
        """Run a job without sources to its end; `more` is of the job, its steps and variables beside the usual ones."""
        job: dict[str, Any] = {"steps": [], "variables": [], **more}
        job["steps"] = [{"name": "script", "script": script}, *job["steps"]]
        job["variables"] = [NO_SOURCES, *job["variables"]]

        async def run() -> Result:
            manager = Manager(self.config, job)
            prepare(manager)
            return await asyncio.wait_for(manager.run(), 60.0)

        result = asyncio.run(run())
        assert list(self.temp.iterdir()) == []
        return result

    def noted(self, name: str) -> list[str]:
        return (self.notes / name).read_text().splitlines()


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


def names(result: Result) -> tuple[str, ...]:
    return tuple(stage.name for stage in result.stages)


def ending(result: Result, stage: str) -> float:
    """For how many seconds a stage went on after it was to end."""
    [seconds] = [found.ending for found in result.stages if found.name == stage]
    assert seconds is not None
    return seconds


def when(text: bytes, action: Callable[[Manager], None]) -> Callable[[Manager], None]:
    """Do something to the manager as soon as its log has `text`."""

    def prepare(manager: Manager) -> None:
        seen = bytearray()

        def watch(data: bytes) -> None:
            had = text in seen
            seen.extend(data)
            if text in seen and not had:
                action(manager)

        manager.log.watchers.append(watch)

    return prepare


def test_a_job_that_succeeds_goes_through_its_stages_in_order(lab: Lab) -> None:
    result = lab.run(["echo hello; pwd"])
    assert names(result) == USUAL
    assert result.status == "success"
    assert f"hello\n{lab.config.environment['BASH_HOOKS']}/builds/group/app\n" in result.log
    assert result.log.endswith("Job succeeded\n")


def test_every_hook_gets_the_folder_the_environment_and_a_group_of_its_own(lab: Lab) -> None:
    seen = 'echo "$1 $PWD $TMPDIR $(ps -o pgid= $$) $$ ${LEASE-none} $CUSTOM_ENV_CI_JOB_ID $(stat -c %a response.json)"'
    stdin = "readlink /proc/self/fd/0"
    lab.hooks(**dict.fromkeys(("prepare", "run"), f'({seen}; {stdin}) >> $NOTES/seen; exec {BASH_HOOKS} "$@"'))
    lab.run(["true"], id=77)
    lines = lab.noted("seen")
    assert set(lines[1::2]) == {"/dev/null"}
    for hook, folder, temp, group, pid, lease, job, rights in map(str.split, lines[::2]):
        assert hook in {"prepare", "run"}
        assert folder == temp
        assert folder.startswith(f"{lab.temp}/custom-executor")
        assert (group, lease, job, rights) == (pid, "one", "77", "600")


def test_the_response_file_has_the_job_as_gitlab_sent_it(lab: Lab) -> None:
    lab.hooks(prepare=f'cp "$JOB_RESPONSE_FILE" $NOTES/response; exec {BASH_HOOKS} "$@"')
    lab.run(["true"], variables=[{"key": "CI_JOB_ID", "value": "1"}], id=78)
    response = json.loads((lab.notes / "response").read_text())
    assert response["id"] == 78
    assert response["git_info"]["protected"] is True


def test_what_gitlab_did_not_send_is_there_as_go_s_zero_values(lab: Lab) -> None:
    """Trap: a project that nobody named is number 0, and who may push to a ref is null."""
    lab.hooks(prepare=f'cp "$JOB_RESPONSE_FILE" $NOTES/response; exec {BASH_HOOKS} "$@"')
    absent: dict[str, Any] = {"image": None, "services": None, "cache": None, "artifacts": None, "credentials": None}
    lab.run(["true"], job_info={"project_id": None}, git_info={"protected": None}, unknown=1, **absent)
    response = json.loads((lab.notes / "response").read_text())
    assert (response["job_info"]["project_id"], response["git_info"]["protected"]) == (0, None)
    assert [response[name] for name in ("services", "cache", "artifacts", "credentials")] == [None] * 4
    assert response["image"]["name"] == ""
    assert set(response["image"]["executor_opts"]) == {"docker", "kubernetes"}
    assert "unknown" not in response


def test_a_job_variable_shadows_the_identity_in_the_environment_only(lab: Lab) -> None:
    """Trap: drivers that name the machine from CUSTOM_ENV_CI_JOB_ID can be aimed at another job's."""
    lab.hooks(prepare=f'echo "$CUSTOM_ENV_CI_JOB_ID" > $NOTES/id; exec {BASH_HOOKS} "$@"')
    lab.run(["true"], variables=[{"key": "CI_JOB_ID", "value": "1"}], id=79)
    assert lab.noted("id") == ["1"]


def test_variables_files_and_the_env_file_reach_later_stages(lab: Lab) -> None:
    variables = [
        {"key": "PLAIN", "value": "it's $OTHER\nhé\\n"},
        {"key": "OTHER", "value": "expanded"},
        {"key": "RAW", "value": "$OTHER", "raw": True},
        {"key": "KEYFILE", "value": "in a file", "file": True},
        {"key": "WHERE", "value": "at $KEYFILE"},
        {"key": "RUNNER_TEMP_PROJECT_DIR", "value": "/of/the/job"},
    ]
    script = [
        'printf "<%s>" "$PLAIN" "$RAW" "$(cat "$KEYFILE")"; echo; [ "$WHERE" = "at $KEYFILE" ]; cat "${WHERE#at }"',
        'echo "NEXT=set here" >> "$GITLAB_ENV"',
    ]
    after = {"name": "after_script", "script": ['echo "then $NEXT $CI_JOB_STATUS"']}
    result = lab.run(script, variables=variables, steps=[after])
    assert "<it's expanded\nhé\\n><$OTHER><in a file>\nin a file" in result.log
    assert "then set here success\n" in result.log


def test_masked_values_are_masked_in_the_log(lab: Lab) -> None:
    result = lab.run(["echo $SECRET"], variables=[{"key": "SECRET", "value": "hush-hush", "masked": True}])
    assert "hush-hush" not in result.log
    assert "[MASKED]" in result.log


@pytest.mark.parametrize(
    ("run", "reason", "exit_code"),
    [
        ("exit 1", "script_failure", 1),
        ("echo 42 > $BUILD_EXIT_CODE_FILE; exit 1", "script_failure", 42),
        (": > $BUILD_EXIT_CODE_FILE; exit 1", "unknown_failure", None),
        ("echo nonsense > $BUILD_EXIT_CODE_FILE; exit 1", "unknown_failure", None),
        ("exit 2", "runner_system_failure", None),
        ("exit 42", "runner_system_failure", None),
        ("kill -9 $$", "runner_system_failure", None),
    ],
)
def test_what_an_exit_code_means(lab: Lab, run: str, reason: str, exit_code: int | None) -> None:
    """And after any failure of build_script its followers are still called."""
    lab.hooks(run=f'case $3 in build_script) {run} ;; *) exec {BASH_HOOKS} "$@" ;; esac')
    result = lab.run(["true"], steps=[{"name": "after_script", "script": ["true"]}])
    assert (result.status, result.reason, result.exit_code) == ("failed", reason, exit_code)
    assert names(result)[-3:] == ("after_script", "cleanup_file_variables", "cleanup")


def test_the_exit_code_file_is_shared_by_all_stages_and_never_cleared(lab: Lab) -> None:
    """Trap: a stage that exits 1 without writing it reports the code of an earlier stage."""
    text = "echo 9 > $BUILD_EXIT_CODE_FILE; exit 0"
    lab.hooks(run=f'case $3 in get_sources) {text} ;; build_script) exit 1 ;; *) exec {BASH_HOOKS} "$@" ;; esac')
    assert lab.run(["true"]).exit_code == 9


@pytest.mark.parametrize(
    ("stage", "rest"),
    [
        ("prepare_script", ("cleanup",)),
        ("get_sources", ("upload_artifacts_on_failure", "cleanup_file_variables", "cleanup")),
    ],
)
def test_what_follows_a_stage_that_fails(lab: Lab, stage: str, rest: tuple[str, ...]) -> None:
    """After get_sources no after_script, though its documentation says always."""
    lab.hooks(run=f'[ $3 = {stage} ] && exit 1; exec {BASH_HOOKS} "$@"')
    after = {"name": "after_script", "script": ["true"]}
    result = lab.run(["true"], steps=[after], artifacts=[{"paths": ["x"], "when": "always"}])
    assert names(result)[names(result).index(stage) + 1 :] == rest
    assert result.status == "failed"


@pytest.mark.parametrize("stage", ["after_script", "cleanup_file_variables"])
@pytest.mark.parametrize("code", [1, 2])
def test_some_stages_may_fail(lab: Lab, stage: str, code: int) -> None:
    lab.hooks(run=f'[ $3 = {stage} ] && exit {code}; exec {BASH_HOOKS} "$@"')
    assert lab.run(["true"], steps=[{"name": "after_script", "script": ["true"]}]).status == "success"


@pytest.mark.parametrize(("code", "reason"), [(1, "script_failure"), (2, "runner_system_failure")])
def test_a_failed_upload_fails_the_job(lab: Lab, code: int, reason: str) -> None:
    lab.hooks(run=f'[ $3 = upload_artifacts_on_success ] && exit {code}; exec {BASH_HOOKS} "$@"')
    assert lab.run(["true"], artifacts=[{"paths": ["x"]}]).reason == reason


def test_the_sources_are_tried_again_with_the_worktree_cleared_once(lab: Lab) -> None:
    lab.hooks(run=f'[ $3 = get_sources ] && exit 1; exec {BASH_HOOKS} "$@"')
    result = lab.run(["true"], variables=[{"key": "GET_SOURCES_ATTEMPTS", "value": "3"}])
    assert names(result)[3:7] == ("get_sources", "clear_worktree", "get_sources", "get_sources")


def test_a_failed_step_ends_the_steps(lab: Lab) -> None:
    steps = [{"name": "release", "script": ["exit 4"]}, {"name": "more", "script": ["true"]}]
    result = lab.run(["true"], steps=steps)
    assert result.codes("step_release") == [1]
    assert result.exit_code == 4
    assert result.codes("step_more") == []


@pytest.mark.parametrize("config", ["exit 2", "echo '{no json'; exit 0", "echo '[]'", "exit 9"])
def test_config_is_tried_three_times_with_cleanup_between_and_without_job_env(lab: Lab, config: str) -> None:
    lab.hooks(config=config, cleanup='echo "${LEASE-none}" >> $NOTES/lease')
    result = lab.run(["true"])
    assert names(result) == ("config", "cleanup") * 3
    assert lab.noted("lease") == ["none"] * 3
    assert result.reason == "runner_system_failure"


def test_prepare_is_tried_again_in_a_new_folder_and_not_after_a_build_failure(lab: Lab) -> None:
    lab.hooks(prepare='echo "$PWD" >> $NOTES/folders; [ "$(wc -l < $NOTES/folders)" -lt 3 ] && exit 2; exit 0')
    assert lab.run(["true"]).status == "success"
    assert len(set(lab.noted("folders"))) == 3
    lab.hooks(prepare="exit 1")
    result = lab.run(["true"])
    assert names(result) == ("config", "prepare", "cleanup")
    assert result.reason == "script_failure"


def test_cleanup_counts_for_nothing_and_only_an_administrator_sees_what_it_says(lab: Lab) -> None:
    lab.hooks(cleanup="echo quiet; echo loud >&2; sleep 0.3; exit 1")
    result = lab.run(["true"])
    assert result.stages[-1].took >= 0.3
    assert result.status == "success"
    assert "quiet" not in result.log
    assert result.admin_log == "quiet\nloud\nCleanup script failed: exit status 1\n"


def test_a_background_child_that_holds_stdout_holds_up_the_stage(lab: Lab) -> None:
    """Trap: also after setsid. `cmd.Wait` waits for the end of the pipes."""
    child = "while kill -0 $1 2>/dev/null; do sleep 0.02; done; sleep 0.3; echo the child ended"  # after its parent
    lab.hooks(prepare=f'setsid bash -c "{child.replace("$", chr(92) + "$")}" child $$ & echo left')
    result = lab.run(["echo built"])
    assert result.status == "success"
    assert "left\nthe child ended\n" in result.log


def test_a_child_left_in_the_group_survives_a_normal_end(lab: Lab) -> None:
    lab.hooks(prepare='sleep 300 > /dev/null 2>&1 < /dev/null & echo $! > $NOTES/pid; mkdir -p "$BASH_HOOKS/builds"')
    lab.run(["true"])
    os.kill(int(lab.noted("pid")[0]), signal.SIGKILL)


def test_canceling_in_the_script_ends_that_stage_and_the_rest_still_runs(lab: Lab) -> None:
    cancel = when(b"going\n", lambda manager: manager.status(Status.CANCELING))
    after = {"name": "after_script", "script": ["echo after $CI_JOB_STATUS"]}
    script = ["echo going; for i in $(seq 3000); do sleep 0.02; done"]
    result = lab.run(script, steps=[after], artifacts=[{"paths": ["x"], "when": "always"}], prepare=cancel)
    assert result.status == "canceled"
    assert "after canceled\n" in result.log
    assert ending(result, "build_script") < lab.config.graces.term
    rest = ("build_script", "after_script", "upload_artifacts_on_failure", "cleanup_file_variables", "cleanup")
    assert names(result)[-5:] == rest


def test_a_silent_job_hears_of_its_cancel_later_than_one_that_talks(lab: Lab) -> None:
    cancel = when(b"going\n", lambda manager: manager.status(Status.CANCELED))

    def seconds(script: str, keep_alive: float) -> float:
        lab.config = replace(lab.config, update_interval=0.05, keep_alive=keep_alive)
        begin = time.monotonic()
        assert lab.run([script], prepare=cancel).status == "canceled"
        return time.monotonic() - begin

    assert seconds("echo going; for i in $(seq 3000); do sleep 0.02; done", 1.0) >= 1.0
    assert seconds("echo going; for i in $(seq 3000); do echo $i; sleep 0.02; done", 60.0) < 30


def test_services_are_told_to_every_hook_by_their_first_alias(lab: Lab) -> None:
    lab.hooks(config=f'echo "$CUSTOM_ENV_CI_JOB_SERVICES" > $NOTES/services; exec {BASH_HOOKS} "$@"')
    lab.run(["true"])
    assert lab.noted("services") == [""]
    lab.run(["true"], services=[{"name": "redis:7", "alias": "cache"}])
    told = {"name": "redis:7", "alias": "cache", "entrypoint": None, "command": None}
    assert json.loads(lab.noted("services")[0]) == [told]


def test_canceling_before_the_script_ends_the_job(lab: Lab) -> None:
    cancel = when(b"Skipping Git", lambda manager: manager.status(Status.CANCELING))
    lab.hooks(run=f'{BASH_HOOKS} "$@"; [ $3 != get_sources ] || for i in $(seq 3000); do sleep 0.02; done')
    result = lab.run(["true"], prepare=cancel)
    assert (result.status, names(result)[-2:]) == ("canceled", ("get_sources", "cleanup"))


def test_canceling_after_the_script_ends_nothing(lab: Lab) -> None:
    cancel = when(b"late\n", lambda manager: manager.status(Status.CANCELING))
    result = lab.run(["true"], steps=[{"name": "after_script", "script": ["echo late"]}], prepare=cancel)
    assert result.status == "success"


@pytest.mark.parametrize("status", [Status.CANCELED, Status.FAILED])
def test_an_abort_leaves_only_cleanup(lab: Lab, status: Status) -> None:
    abort = when(b"going\n", lambda manager: manager.status(status))
    after = {"name": "after_script", "script": ["true"]}
    result = lab.run(["echo going; for i in $(seq 3000); do sleep 0.02; done"], steps=[after], prepare=abort)
    assert (result.status, names(result)[-2:]) == ("canceled", ("build_script", "cleanup"))


def test_the_job_s_time_is_an_abort_and_the_script_s_time_a_cancel(lab: Lab) -> None:
    wait = ["for i in $(seq 3000); do sleep 0.02; done"]
    after = {"name": "after_script", "script": ["echo after $CI_JOB_STATUS"]}
    result = lab.run(wait, steps=[after], runner_info={"timeout": 1})
    assert (result.reason, names(result)[-2:]) == ("job_execution_timeout", ("build_script", "cleanup"))
    assert ending(result, "build_script") < lab.config.graces.term
    result = lab.run(wait, steps=[after], variables=[{"key": "RUNNER_SCRIPT_TIMEOUT", "value": "1s"}])
    assert result.reason == "job_execution_timeout"
    assert "after timedout\n" in result.log


def test_a_hook_that_ignores_term_is_killed_and_one_that_cannot_be_is_abandoned(lab: Lab) -> None:
    """The second keeps its pipes open with a child in a session of its own, as a kept SSH master does."""
    lab.config = replace(lab.config, graces=Graces(0.2, 0.2))
    abort = when(b"going\n", lambda manager: manager.status(Status.CANCELED))
    stay = 'trap "" TERM; echo going; while :; do sleep 0.05; done'
    lab.hooks(run=f'[ $3 = build_script ] || exec {BASH_HOOKS} "$@"; {stay}')
    result = lab.run(["true"], prepare=abort)
    assert result.codes("build_script") == [-9]
    assert lab.config.graces.term <= ending(result, "build_script") < 10
    child = "setsid bash -c 'echo $$ > $NOTES/pid; exec sleep 300' & until [ -s $NOTES/pid ]; do sleep 0.02; done"
    lab.hooks(run=f'[ $3 = build_script ] || exec {BASH_HOOKS} "$@"; {child}; {stay}')
    result = lab.run(["true"], prepare=abort)
    assert result.codes("build_script") == [None]
    assert lab.config.graces.term + lab.config.graces.kill <= ending(result, "build_script") < 10
    os.kill(int(lab.noted("pid")[0]), signal.SIGKILL)


def test_cleanup_starts_beside_a_stage_that_does_not_end(lab: Lab) -> None:
    """Trap: after an abort the stage is waited for only so long, so the two hooks of one job may run at once."""
    lab.config = replace(lab.config, finish_timeout=0.2)
    abort = when(b"going\n", lambda manager: manager.status(Status.CANCELED))
    stay = 'trap "" TERM; echo going; until [ -e $NOTES/cleaned ]; do sleep 0.02; done; touch $NOTES/saw'
    lab.hooks(run=f'[ $3 = build_script ] || exec {BASH_HOOKS} "$@"; {stay}', cleanup="touch $NOTES/cleaned")
    lab.run(["true"], prepare=abort)
    until("the stage saw cleanup", (lab.notes / "saw").exists)


def test_the_log_is_cut_and_the_job_goes_on(lab: Lab) -> None:
    lab.config = replace(lab.config, output_limit=10_000)
    result = lab.run(["head -c 100000 /dev/zero | tr '\\0' x; exit 5"])
    assert "Job's log exceeded limit of 10000 bytes." in result.log
    assert result.log_bytes > 100_000
    assert result.exit_code == 5


def test_a_large_variable_breaks_every_hook(lab: Lab) -> None:
    """Trap (GitLab issue 392406): Linux takes 128 KiB for one string of an environment. No hook can mend that."""
    result = lab.run(["true"], variables=[{"key": "BIG", "value": "x" * 140_000}])
    assert "argument list too long" in result.message
    assert result.reason == "runner_system_failure"


def test_by_hand_and_term(lab: Lab) -> None:
    """As a command: TERM aborts the job, and cleanup still runs."""
    job = {"variables": [NO_SOURCES], "steps": [{"name": "script", "script": ["echo going; sleep 300"]}]}
    (lab.notes / "job.json").write_text(json.dumps(job))
    command = [sys.executable, "-m", "tests.gitlab.manager", str(lab.notes / "job.json"), "--", BASH_HOOKS]
    process = subprocess.Popen(
        command, env=dict(lab.config.environment), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    while "going\n" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 1
    assert json.loads(told)["reason"] == "runner_interrupted"
    assert json.loads(told)["stages"][-1] == ["cleanup", 0]


def test_by_hand_a_second_term_leaves_the_hooks_alone(lab: Lab) -> None:
    lab.hooks(cleanup="echo $$ > $NOTES/pid; exec sleep 300")
    (lab.notes / "job.json").write_text(json.dumps({"variables": [NO_SOURCES], "steps": []}))
    command = [sys.executable, "-m", "tests.gitlab.manager", str(lab.notes / "job.json"), "--", *lab.config.hooks]
    with subprocess.Popen(command, env=dict(lab.config.environment), stdout=subprocess.DEVNULL) as manager:
        pid = lab.notes / "pid"
        until("cleanup runs", lambda: pid.exists() and bool(pid.read_text().strip()))
        manager.send_signal(signal.SIGQUIT)
        manager.send_signal(signal.SIGTERM)
        manager.send_signal(signal.SIGINT)
        assert manager.wait(30) == 1
    os.kill(int(pid.read_text()), signal.SIGKILL)


@pytest.mark.parametrize(
    "text", ["", "plain", "it's", "two\nlines\t", "back\\slash", "hé €", '$x `y` "z" !', "a b*?[~"]
)
def test_quoting_is_what_bash_reads_back(text: str) -> None:
    shown = subprocess.run(["bash", "-c", f"printf %s {quote(text)}"], capture_output=True, check=True, timeout=10)
    assert shown.stdout.decode() == text

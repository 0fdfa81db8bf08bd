"""A job's image and services in the Docker Engine of a real sandbox, all in one."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from paramiko.channel import Channel

from runner.gitlab import credentials
from runner.gitlab.containers.inside import enter
from runner.gitlab.containers.plan import END_CONTAINER, Plan, plan
from runner.gitlab.containers.policy import ImagePolicy
from runner.gitlab.response import Credential, GitLabJob, Image, Service
from tests.e2e.conftest import Keeper, new_keeper
from tests.runner.gitlab import lab as labs
from tests.runner.gitlab.lab import BUILDS, CONFIG, Lab

__all__ = ["new_keeper"]

NEVER = ("never",)
SERVER = Service(Image("hello/server:1", pull_policies=NEVER), ("srv",))
GRACE = 2.0


@pytest.fixture(scope="module")
def lab(new_keeper: Callable[..., Keeper]) -> Iterator[Lab]:
    keeper = new_keeper(warm=1)
    keeper.start()
    with labs.lent(keeper) as lab:
        lab.bash(f"mkdir -p {BUILDS} {CONFIG}")
        yield lab


def job(image: str | Image | None, *services: Service, **more: object) -> GitLabJob:
    named = Image(image, pull_policies=NEVER) if isinstance(image, str) else image
    return GitLabJob(
        1, "hash", "https://gitlab.example", 1, protected=True, fork=False, image=named, services=services, **more  # type: ignore[arg-type]
    )  # fmt: skip


def planned(job: GitLabJob) -> Plan:
    made = plan(job, ImagePolicy(), BUILDS, CONFIG, 30.0)
    assert made
    return made


def prepared(lab: Lab, job: GitLabJob) -> Plan:
    made = planned(job)
    code, output = lab.run(made.prepare)
    assert code == 0, output
    return made


def test_a_script_runs_in_its_image_with_services_and_docker(lab: Lab) -> None:
    """Also: the stage's own exit code, one container for all scripts, and every owner put right around them."""
    service = Service(SERVER.image, SERVER.aliases, variables={"SAID": "two\nlines"})
    made = prepared(lab, job("box:1", service))
    lab.bash(f"touch {BUILDS}/before; ln -s /etc/shadow {BUILDS}/link")

    script = (
        f"id -u; stat -c %u {BUILDS} {BUILDS}/before; nc srv 7; nc hello-server 7; docker run --rm box:1 echo inner\n"
        f"docker buildx version && docker compose version; readlink ~/.docker; touch {BUILDS}/after /kept\n"
        "docker inspect -f '{{json .Config.Env}}' gitlab-service-0\n"
        f"docker run --rm -v {BUILDS}:/b box:1 ls /b\nexit 42\n"
    )
    code, output = lab.run(made.enter(script.encode(), GRACE))
    assert code == 42, output
    assert output.startswith("0\n0\n0\nhello\nhello\ninner\n")
    assert "Docker Compose version" in output
    assert f"\n{CONFIG}\n" in output
    assert '"SAID=two\\nlines"' in output
    assert output.endswith("after\nbefore\nlink\n")

    assert lab.bash(f"stat -c %U {BUILDS} {BUILDS}/* /etc/shadow").split() == [*["sandbox"] * 4, "root"]
    assert lab.run(made.enter(b"ls /kept; echo $0", GRACE)) == (0, "/kept\n/bin/sh\n")
    assert lab.run(made.after_failure) == (0, "Service hello/server:1 wrote:\n")


def test_another_user_of_the_image_can_write_and_use_docker(lab: Lab) -> None:
    made = prepared(lab, job("worker:1"))
    code, output = lab.run(made.enter(f"id -u; touch {BUILDS}/w; docker ps -q | wc -l".encode(), GRACE))
    assert (code, output.split()[0]) == (0, "1234"), output
    assert lab.bash(f"stat -c %U {BUILDS}/w") == "sandbox\n"
    made = prepared(lab, job(Image("worker:1", user="77", pull_policies=NEVER)))
    assert lab.run(made.enter(f"id -u; touch {BUILDS}/x".encode(), GRACE)) == (0, "77\n")


def test_an_entrypoint_is_the_images_unless_the_job_gives_one(lab: Lab) -> None:
    code, output = lab.run(prepared(lab, job("echoes:1")).enter(b"echo script", GRACE))
    assert (code, output.partition(" sh -c")[0]) == (0, "the entrypoint got")
    none = Image("echoes:1", (), pull_policies=NEVER)
    assert lab.run(prepared(lab, job(none)).enter(b"echo script", GRACE)) == (0, "script\n")
    wrong = Image("box:1", ("/no/such",), pull_policies=NEVER)
    code, output = lab.run(prepared(lab, job(wrong)).enter(b"echo script", GRACE))
    assert code == 127
    assert "Check `image:entrypoint`" in output


@pytest.mark.parametrize(
    ("image", "code", "said"),
    [
        (Image("nosuch:1", pull_policies=NEVER), 1, "it is not in this sandbox"),
        (Image("127.0.0.1:9/nosuch:1"), 2, "connection refused"),
        (Image("Not A Name", pull_policies=("if-not-present",)), 1, "invalid reference format"),
        (Image("shell-less:1", pull_policies=NEVER), 1, "neither bash nor sh"),
        (Image("127.0.0.1:9/nosuch:1", pull_policies=("always", "never")), 1, "cannot be had with pull policy always"),
    ],
)
def test_what_cannot_be_is_told_from_what_did_not_work(lab: Lab, image: Image, code: int, said: str) -> None:
    """Exit 1 is the job's own failure and is not tried again; 2 is ours."""
    policy = ImagePolicy() if " " not in image.name else _AnyName()
    made = plan(job(image), policy, BUILDS, CONFIG, 30.0)
    assert made
    ended, output = lab.run(made.prepare)
    assert (ended, said in output) == (code, True), output


class _AnyName(ImagePolicy):
    def choose(self, name: str) -> str:
        return name


def test_an_engine_as_a_service_is_privileged_over_the_sandbox_and_no_other_service_is(lab: Lab) -> None:
    """`docker:dind` ends at once otherwise. What it needs for that, as a mount, is refused to others."""
    lab.bash("docker tag hello/server:1 docker:28-dind")
    engine = Service(Image("docker:28-dind", pull_policies=NEVER), ("docker",))
    code, output = lab.run(planned(job("box:1", engine, SERVER)).prepare)
    assert (code, "without this service and DOCKER_HOST" in output) == (0, True), output
    mount = "docker exec {} /bin/busybox mount -t tmpfs none /tmp && echo mounted || echo refused"
    assert lab.bash(mount.format("gitlab-service-0")) == "mounted\n"
    assert lab.bash(mount.format("gitlab-service-1") + " 2>/dev/null").endswith("refused\n")
    lab.bash("docker rm -f gitlab-service-1")


def test_a_service_that_does_not_answer_is_told_of_with_its_log(lab: Lab) -> None:
    broken = Service(Image("broken:1", pull_policies=NEVER))
    code, output = lab.run(planned(job(None, broken)).prepare)
    assert code == 0
    for line in ("Service broken:1 probably didn't start properly.", "exit code 3", "about to fail"):
        assert line in output


def test_without_image_a_script_is_beside_its_services(lab: Lab) -> None:
    """It has their names, and the sandbox's own hosts file is as it was: a change there would cost the sandbox."""
    hosts = lab.bash("cat /etc/hosts")
    made = prepared(lab, job(None, SERVER))
    script = (
        b"id -un; exec 3<>/dev/tcp/srv/7; cat <&3; echo $BASH_VERSINFO >/dev/null; pwd; echo $DOCKER_CONFIG; exit 9"
    )
    assert lab.run(made.enter(script, GRACE)) == (9, f"sandbox\nhello\n/home/sandbox\n{CONFIG}\n")
    assert lab.bash("cat /etc/hosts") == hosts


def test_beside_its_services_a_script_has_the_sandbox_s_environment_and_no_argument_list_has_it(lab: Lab) -> None:
    """The trap: a proxy's password is in it."""
    made = prepared(lab, job(None, SERVER))
    script = b"#!/usr/bin/env bash\necho $LINENO $HOME $DOCKER_CONFIG; ps -eo args | grep '[H]OME='; (exit 4); exit $?"
    assert lab.run(made.enter(script, GRACE)) == (4, f"2 /home/sandbox {CONFIG}\n")


@pytest.mark.parametrize(
    ("name", "script", "expected", "said"),
    [
        ("TERM", b"trap 'echo tidied; exit 6' TERM; echo ready; while :; do sleep 0.05; done", 6, "tidied\n"),
        ("TERM", b"echo ready; sleep 4242", 143, ""),
        ("KILL", b"trap '' TERM; echo ready; (sleep 4242); sleep 4242", 137, ""),
    ],
    ids=["tidies", "is silent", "is killed"],
)
def test_a_script_beside_its_services_is_ended_by_its_group(
    lab: Lab, name: str, script: bytes, expected: int, said: str
) -> None:
    """The trap: the group's first process is sudo, which no signal of the sandbox's user reaches."""
    made = prepared(lab, job(None, SERVER))
    running, group = _started(lab, made.enter(script, GRACE))
    assert lab.bash(f"ps -o user=,comm= {group}").split() == ["root", "sudo"]
    lab.bash(f"kill -{name} -- -{group}")
    code, output = labs.finish(running, began=True)
    assert (code, said in output) == (expected, True), output
    assert lab.bash(f"pgrep -g {group} || echo none") == "none\n"
    assert lab.bash("docker ps --format '{{.Names}}'").split() == ["gitlab-service-0"]


ENDS = {
    b"echo ready; sleep 1000": 143,
    b"trap '' TERM; echo ready; sleep 1000; sleep 1000": 137,
    b"trap 'exit 6' TERM; echo ready; while :; do echo flood; done": 6,
}


def test_the_end_of_a_script_is_the_end_of_all_in_its_container(lab: Lab) -> None:
    """Silent, deaf to TERM, flooding its log; its services go on. And so it is where the stage was killed itself."""
    made = prepared(lab, job("box:1", SERVER))
    for script, expected in ENDS.items():
        running, group = _started(lab, made.enter(script, GRACE))
        lab.bash(f"kill -TERM -- -{group}")
        assert labs.finish(running, began=True)[0] == expected
        assert lab.bash("docker ps --format '{{.Names}}'").split() == ["gitlab-service-0"]

    _, group = _started(lab, made.enter(b"echo ready; sleep 1000", GRACE))
    lab.bash(f"kill -KILL {group}")
    assert lab.run(made.enter(b"ps | grep -c '[s]leep'; echo clean", GRACE))[1].splitlines() == ["0", "clean"]


def _started(lab: Lab, script: bytes) -> tuple[Channel, int]:
    """Return a script that runs, and its process group."""
    running = lab.start(script)
    group = labs.pid(running)
    labs.read_until(running, "ready")
    return running, group


_TELLING = b"""\
import sys
of_engine = sys.modules["runner.gitlab.containers.inside.engine"]
def told(method, path, *body, call=of_engine.call, **query):
    print(method, path, flush=True)
    return call(method, path, *body, **query)
of_engine.call = told
import os
os.environ["PATH"] = "/tmp/late:" + os.environ["PATH"]
order = """
"""Says each request to Docker before it is made."""

_LATE_DOCKER = """\
rm -rf /tmp/late && mkdir /tmp/late && mkfifo /tmp/late/go
cat >/tmp/late/docker <<'END'
#!/bin/sh
echo asked
read word </tmp/late/go
exec /usr/bin/docker "$@"
END
chmod 755 /tmp/late/docker
"""
"""Starts the container when it is told to."""


def test_a_script_that_docker_is_about_to_start_is_ended_too(lab: Lab) -> None:
    """The trap: a container that does not run yet is not to be killed, and then it starts."""
    made = prepared(lab, job("box:1"))
    lab.bash(_LATE_DOCKER)
    running = lab.start(made.enter(b"sleep 1000", GRACE).replace(b"order = ", _TELLING, 1))
    group = labs.pid(running)
    labs.read_until(running, "asked")
    lab.bash(f"kill -TERM -- -{group}")
    labs.read_until(running, "gitlab-job/wait")
    lab.bash("echo go >/tmp/late/go")
    assert labs.finish(running, began=True)[0] == 137
    assert lab.bash("docker ps -q --filter name=gitlab-job") == ""


def test_what_a_killed_stage_left_in_its_container_is_ended_aside(lab: Lab) -> None:
    """And it succeeds where there is nothing to end, not even a container."""
    made = prepared(lab, job("box:1", SERVER))
    _, group = _started(lab, made.enter(b"trap '' TERM; echo ready; sleep 1000", GRACE))
    lab.bash(f"kill -KILL {group}")
    for _ in range(2):
        assert lab.run(END_CONTAINER) == (0, "")
        assert lab.bash("docker ps --format '{{.Names}}'").split() == ["gitlab-service-0"]
    lab.bash("docker rm gitlab-job")
    assert lab.run(END_CONTAINER) == (0, "")


def test_the_end_of_docker_s_command_is_a_failure_of_ours_and_ends_the_script(lab: Lab) -> None:
    """The trap: a container that still runs has the exit code 0."""
    made = prepared(lab, job("box:1"))
    channel = lab.start(_told(made.enter(b"echo ready; sleep 1000", GRACE)))
    labs.pid(channel)
    labs.read_until(channel, "ready")
    lab.bash("kill -KILL $(pgrep -f '^docker start --attach')")
    output = labs.finish(channel, began=True)[1]
    assert f"ended with {128 + enter.OURS}\n" in output
    assert "Docker's command ended before it" in output
    assert lab.bash("docker ps -q --filter name=gitlab-job") == ""


@pytest.mark.parametrize("rest", ["", "; while :; do sleep 1; done"])
def test_a_script_that_removes_its_own_container_has_failed(lab: Lab, rest: str) -> None:
    """As one that cleans up does: `docker rm -f $(docker ps -aq)`. It is no failure of ours, and so not tried again."""
    made = prepared(lab, job("box:1", SERVER))
    code, output = lab.run(made.enter(f"docker rm -f $(docker ps -aq){rest}".encode(), GRACE))
    assert (code, "removed its own container, gitlab-job," in output) == (137, True), output


def test_a_container_that_docker_does_not_start_is_a_failure_of_ours(lab: Lab) -> None:
    """The trap: the exit code that is there is of the script before."""
    made = prepared(lab, job("box:1"))
    assert lab.run(made.enter(b"true", GRACE)) == (0, "")
    no_docker = b"import os; os.environ['DOCKER_HOST'] = 'unix:///nowhere'\nimport sys, types\n"
    program = made.enter(b"true", GRACE).replace(b"import sys, types\n", no_docker, 1)
    output = lab.run(_told(program))[1]
    assert f"ended with {128 + enter.OURS}\n" in output
    assert "Docker did not start it" in output
    lab.bash("docker rm -f gitlab-job")
    output = lab.run(_told(made.enter(b"true", GRACE)))[1]
    assert f"ended with {128 + enter.OURS}\n" in output
    assert "No such container" in output


def _told(program: bytes) -> bytes:
    """Return a script that runs a program and says how it ended."""
    head = b"#!/bin/bash\nfile=$(mktemp)\ncat >$file <<'END'\n"
    return head + program + b"END\nchmod 700 $file; $file; echo ended with $?\n"


_REGISTRY = """\
#!/bin/sh
cd $(mktemp -d)
echo 'me:$2b$04$/gDUYmqCRq3.iPYEFHXaMOf3JBsq0ioGXOxGj.uWypYE/23B1BmhO' >users
cat >config.yml <<END
version: 0.1
storage: {filesystem: {rootdirectory: $PWD/images}}
http: {addr: "127.0.0.1:5000"}
auth: {htpasswd: {realm: registry, path: $PWD/users}}
END
exec /tmp/docker-registry serve config.yml 2>&1
"""
"""For one user, whose password is `secret`."""
OWN = "127.0.0.1:5000/team/app:1"


@pytest.fixture
def registry(lab: Lab) -> Iterator[None]:
    """A real one, in the sandbox."""
    program = shutil.which("docker-registry")
    assert program, "`make test-tools` installs docker-registry."
    lab.put(Path(program).read_bytes(), "/tmp/docker-registry")
    running = lab.start(_REGISTRY.encode())
    number = labs.pid(running)
    labs.read_until(running, "listening on")
    yield
    lab.bash(f"kill {number}; rm /tmp/docker-registry")


def private(password: str) -> GitLabJob:
    return job(Image(OWN, pull_policies=("always",)), credentials=(Credential("127.0.0.1:5000", "me", password),))


def log_in(lab: Lab, job: GitLabJob) -> tuple[int, str]:
    return lab.run(credentials.install(credentials.configuration(job, ""), CONFIG, "/home/sandbox/.docker"))


@pytest.mark.usefixtures("registry")
def test_a_jobs_logins_are_used_for_its_images(lab: Lab) -> None:
    """Who may not come in is told another thing than who asks for what is not there; and no log has the password."""
    for password, said in (("wrong", "unauthorized"), ("secret", "manifest unknown")):
        assert log_in(lab, private(password)) == (0, "")
        code, output = lab.run(planned(private(password)).prepare)
        assert (code, said in output.lower()) == (1, True), output
        assert password not in output


@pytest.mark.usefixtures("registry")
def test_a_job_pushes_to_its_registry_and_the_next_one_runs_in_that_image(lab: Lab) -> None:
    """By the logins of GitLab alone, from within its container, and no longer once they are gone."""
    assert log_in(lab, private("secret")) == (0, "")
    made = prepared(lab, job("box:1"))
    push = f"docker tag worker:1 {OWN} && docker push {OWN} && docker rmi {OWN}"
    code, output = lab.run(made.enter(push.encode(), GRACE))
    assert (code, "digest: sha256:" in output) == (0, True), output

    made = prepared(lab, private("secret"))
    assert lab.run(made.enter(b"id -u", GRACE)) == (0, "1234\n")
    lab.bash(f"rm -r {CONFIG} && mkdir {CONFIG}")
    code, output = lab.run(b"#!/bin/sh\ndocker push " + OWN.encode())
    assert (code, "no basic auth credentials" in output) == (1, True), output


@pytest.mark.usefixtures("registry")
@pytest.mark.parametrize("image", ["box:1", "worker:1"])
def test_a_job_s_own_docker_configuration_is_what_counts(lab: Lab, image: str) -> None:
    """The trap: with a variable of ours, Docker would look elsewhere than where GitLab's manual has jobs write it."""
    assert log_in(lab, private("wrong")) == (0, "")
    own = '{"auths": {"127.0.0.1:5000": {"auth": "bWU6c2VjcmV0"}}}'
    script = (
        f"docker tag box:1 {OWN}; docker push {OWN} || echo refused\n"
        f"mkdir -p ~/.docker && echo '{own}' >~/.docker/config.json && docker push {OWN} && docker rmi {OWN}\n"
    )
    code, output = lab.run(prepared(lab, job(image)).enter(script.encode(), GRACE))
    assert (code, "refused\n" in output, "digest: sha256:" in output) == (0, True, True), output


def test_an_image_s_own_docker_configuration_is_left_alone(lab: Lab) -> None:
    """As kaniko's, which says where it is; one that has none there gets the job's."""
    assert log_in(lab, private("secret")) == (0, "")
    lab.bash(
        "cd $(mktemp -d); echo '{}' >own\n"
        "head='FROM box:1\\nENV DOCKER_CONFIG=/kaniko/.docker/\\nCOPY own /kaniko/.docker'\n"
        'printf "$head/config.json" | docker build -q -t full:1 -f - . >/dev/null\n'
        'printf "$head/other" | docker build -q -t half:1 -f - . >/dev/null\n'
    )
    script = b"echo $DOCKER_CONFIG; cat /kaniko/.docker/config.json; readlink ~/.docker || echo no link"
    assert lab.run(prepared(lab, job("full:1")).enter(script, GRACE)) == (0, "/kaniko/.docker/\n{}\nno link\n")
    code, output = lab.run(prepared(lab, job("half:1")).enter(script, GRACE))
    assert (code, '{"auths": {"127.0.0.1:5000":' in output, "no link" in output) == (0, True, True), output

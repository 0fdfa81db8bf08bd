"""The sandbox image on a real engine: the promises of `docs/sandbox-image.md` to users who start it by hand."""

import json
import re
import time

import paramiko
import pytest
from docker.errors import APIError

from sandbox.identity import new_identity
from tests.images.started import HELLO, Start, Started, key_from


def test_a_session_is_the_user_sandbox_who_may_become_root(ready: Started) -> None:
    assert ready.sh("id -un; id -u; pwd; echo $0").split() == ["sandbox", "1000", "/home/sandbox", "bash"]
    assert "docker" in ready.sh("id -Gn").split()
    assert ready.sh("sudo -n id -u").strip() == "0"


@pytest.mark.parametrize("session", ["{}", "sudo {}", "sudo -i {}", "sudo su -c '{}'", "sudo su - -c '{}'"])
def test_every_session_mounts_as_sysbox_needs_it(ready: Started, session: str) -> None:
    assert ready.sh(session.format("printenv LIBMOUNT_FORCE_MOUNT2")).strip() == "always"


def test_the_packages_that_were_installed_are_not_in_it_once_more(ready: Started) -> None:
    """The trap: only Debian's own image for containers has apt keep nothing. Another base had 144 MB of them."""
    assert ready.sh("sudo find /var/cache/apt /var/lib/apt/lists -type f -size +64k") == ""


def test_root_can_mount(ready: Started) -> None:
    ready.sh("sudo mount -t tmpfs tmpfs /mnt && sudo umount /mnt")


def test_authorized_keys_do_not_reach_what_is_started(ready: Started) -> None:
    environments = ready.sh(r"for p in sshd dockerd containerd; do sudo cat /proc/$(pidof -s $p)/environ; done; env")
    assert "LIBMOUNT" in environments
    assert "AUTHORIZED_KEYS" not in environments


def test_sftp_works(ready: Started) -> None:
    with ready.login().open_sftp() as sftp:
        with sftp.open("greeting", "w") as file:
            file.write(b"hello")
        assert sftp.stat("greeting").st_size == 5
        sftp.remove("greeting")


@pytest.mark.parametrize("user", ["root", "nobody"])
def test_nobody_else_logs_in(ready: Started, user: str) -> None:
    with pytest.raises(paramiko.AuthenticationException):
        ready.login(user)


def test_no_other_key_and_no_password_logs_in(ready: Started) -> None:
    with pytest.raises(paramiko.AuthenticationException):
        ready.login(key=key_from(new_identity("other").client.private))
    with pytest.raises(paramiko.AuthenticationException):
        ready.login(password="sandbox")


def test_the_log_names_who_came_in(ready: Started) -> None:
    ready.sh("true")
    assert "Accepted publickey for sandbox" in ready.log()


def test_docker_builds_and_runs(ready: Started) -> None:
    for options in ("", "--network host", "--privileged", "--memory 64m --cpus 0.5 --pids-limit 50"):
        assert ready.sh(HELLO + f"docker run --rm {options} hello").strip() == "hello"


def test_docker_is_on_overlay2_and_away_from_the_hosts_pools(ready: Started) -> None:
    assert ready.sh("docker info -f '{{.Driver}}'").strip() == "overlay2"
    assert ready.sh("docker network inspect bridge -f '{{(index .IPAM.Config 0).Subnet}}'").startswith("10.")


def test_compose_comes_up_and_goes(ready: Started) -> None:
    compose = "services: {a: {image: hello}, b: {image: hello, depends_on: [a]}}"
    ready.sh(HELLO + f"echo '{compose}' > compose.yaml; docker compose up 2>&1; docker compose down 2>&1")
    assert ready.sh("docker ps -aq").strip() == ""


def test_the_health_command_agrees(ready: Started) -> None:
    assert ready.sh("sandbox-health").strip() == "healthy: sshd listens, Docker answers on overlay2"


def test_a_restart_keeps_inner_images_and_the_host_key(start: Start) -> None:
    sandbox = start()
    sandbox.await_docker()
    sandbox.sh(HELLO + "docker run -d --stop-signal KILL --name left hello sleep 1000")
    before = sandbox.host_key()
    sandbox.container.restart()
    sandbox.await_docker()
    assert sandbox.sh("docker run --rm hello").strip() == "hello"
    assert sandbox.sh("docker inspect -f '{{.State.Status}}' left").strip() == "exited"
    assert sandbox.host_key() == before


def test_term_stops_inner_containers_cleanly_and_in_time(start: Start) -> None:
    sandbox = start()
    sandbox.await_docker()
    sandbox.sh(HELLO + "docker run -d --name sleeper hello sleep 1000")
    begin = time.monotonic()
    sandbox.container.stop()
    assert time.monotonic() - begin < 10
    assert sandbox.await_end() == 0
    assert "asked to stop" in sandbox.log()
    assert "killed" not in sandbox.log()
    assert "is on overlayfs" not in sandbox.log()


def test_without_keys_nobody_gets_in_and_the_log_says_so(start: Start) -> None:
    sandbox = start(environment={})
    log = sandbox.await_log("Server listening")
    assert "no authorized key: nobody can log in. Set AUTHORIZED_KEYS" in log
    with pytest.raises(paramiko.AuthenticationException):
        sandbox.login()


def test_given_files_count(start: Start) -> None:
    identity = new_identity("given")
    sandbox = start(
        environment={},
        given={
            "ssh_host_ed25519_key": identity.host.private.encode(),
            "authorized_keys": identity.client.public.encode(),
            "daemon.json": json.dumps({"storage-driver": "overlay2", "labels": ["given=yes"]}).encode(),
            "sshd_config": (
                b"AuthorizedKeysFile /run/sandbox/authorized_keys\nAllowUsers sandbox\n"
                b"AuthenticationMethods publickey\nSetEnv GIVEN=yes\n"
            ),
        },
    )
    sandbox.private_key = identity.client.private
    assert sandbox.sh("echo $GIVEN").strip() == "yes"
    assert sandbox.host_key() == key_from(identity.host.private).get_base64()
    sandbox.await_docker()
    assert "given=yes" in sandbox.sh("docker info -f '{{.Labels}}'")


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("ssh_host_ed25519_key", b"nonsense", "is not a private key without passphrase"),
        ("sshd_config", b"NoSuchOption yes\n", "The given sshd_config is not usable: .*NoSuchOption"),
        ("daemon.json", b"{", "The given daemon.json is not usable: .*daemon.json"),
        ("daemon.json", b'{"no-such-option": 1}', "The given daemon.json is not usable: .*no-such-option"),
    ],
)
def test_a_malformed_given_file_stops_the_start_with_one_line(
    start: Start, name: str, content: bytes, complaint: str
) -> None:
    sandbox = start(given={name: content})
    assert sandbox.await_end() == 1
    lines = sandbox.log().splitlines()
    assert re.search(f"^sandbox: .*{complaint}", lines[-1]), lines


def test_plain_runc_is_refused_with_what_is_missing(start: Start) -> None:
    try:
        sandbox = start(runtime="runc")
    except APIError as error:
        pytest.fail(f"the engine has no runc: {error}")
    assert sandbox.await_end() == 1
    (line,) = sandbox.log().splitlines()
    assert "--runtime=sysbox-runc" in line


def test_a_dead_sshd_ends_the_sandbox(start: Start) -> None:
    sandbox = start()
    sandbox.await_docker()
    sandbox.sh("sudo pkill -KILL -o -x sshd", check=False)
    assert sandbox.await_end() == 137
    assert "sshd ended with code 137" in sandbox.log()


def test_a_dead_inner_docker_is_told_and_left_alone(start: Start) -> None:
    sandbox = start()
    sandbox.await_docker()
    sandbox.sh("sudo pkill -KILL -x dockerd")
    sandbox.await_log("the inner Docker Engine ended with code 137")
    assert sandbox.is_running()
    assert sandbox.sh("sandbox-health", check=False).strip() == "unhealthy: the inner Docker Engine does not answer"

"""Leftovers that are removed after a job, so that the next job of its trust key finds nothing of them."""

from __future__ import annotations

import pytest

from runner.outcome import Succeeded
from tests.damage.case import Case
from tests.damage.conftest import Lab

IMAGE = "cp /bin/busybox . ; printf 'FROM scratch\\nCOPY busybox /\\n' | docker build -q -t box -f - . >/dev/null;"
PROCESSES = "pgrep -f 'sleep 4242'"

CASES = [
    Case("nothing at all", "true"),
    Case("files in the home, the workspace and the temporary folders",
         "touch x ~/y ~/.gitconfig /tmp/z /dev/shm/s; sudo touch /var/tmp/r /root/q; mkdir ~/.ssh; touch ~/.ssh/config",
         planted="find . /tmp /var/tmp /dev/shm -mindepth 1; ls -A ~ | grep -v '^.bash\\|^.profile\\|^workspace';"
                 "sudo ls -A /root | grep -v '^.bashrc\\|^.profile\\|^.ssh'"),
    Case("a git hook and a global git configuration",
         "git config --global core.hooksPath ~/hooks; git init -q r; echo id >r/.git/hooks/post-checkout",
         planted="git config --global --list 2>/dev/null; ls"),
    Case("a secret in a root's file", "echo s3cret | sudo tee /tmp/secret /root/secret >/dev/null",
         planted="sudo cat /tmp/secret /root/secret 2>/dev/null"),
    Case("a process that ignores TERM", "trap '' TERM; sleep 4242 >/dev/null 2>&1 & disown", planted=PROCESSES),
    Case("a process that comes again", "(while :; do sleep 4242; done) >/dev/null 2>&1 & disown", planted=PROCESSES),
    Case("a daemon of root's", "sudo setsid -f sleep 4242 >/dev/null 2>&1", planted=PROCESSES),
    Case("a process in a pid namespace", "sudo setsid -f unshare -pf sleep 4242 >/dev/null 2>&1", planted=PROCESSES),
    Case("a container that always comes again",
         f"{IMAGE} docker run -d --restart=always box /busybox sleep 4242 >/dev/null",
         planted=f"{PROCESSES}; docker ps -aq"),
    Case("a secret in an inner volume", f"{IMAGE} docker run --rm -v kept:/kept box /busybox mkdir /kept/secret",
         planted="docker volume ls -q"),
    Case("an inner network with an interface of its own name, and a swarm",
         "docker network create -o com.docker.network.bridge.name=mine n >/dev/null; docker swarm init >/dev/null",
         planted="docker network ls --filter type=custom -q; docker service ls 2>/dev/null; ip -o link show mine 2>&-"),
    Case("a build under way",
         f"{IMAGE} printf 'FROM box\nRUN [\"/busybox\", \"sleep\", \"4242\"]\n' | docker build -f - . >/dev/null 2>&1 &"
         f"until {PROCESSES} >/dev/null; do sleep 0.1; done", planted=PROCESSES),
    Case("a FIFO, a loop and odd names",
         "mkfifo f; ln -s l l; touch $'\\e[31m\\n\\xff'; truncate -s 15T big; mkdir -m 0 shut",
         planted="ls -A"),
    Case("very many files", "seq -f f%g 20000 | xargs touch", planted="ls -A"),
    Case("deep folders", "for n in {1..300}; do mkdir d; cd d; done", planted="ls -A"),
    Case("the clock", "sudo date -s '2001-01-01' >/dev/null 2>&1; exit 0", planted="date +%Y | grep 2001"),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=str)
def test_cleaned(lab: Lab, case: Case) -> None:
    lab.check(case)


def test_inner_images_stay_for_the_same_trust_key_and_for_no_other(lab: Lab) -> None:
    """The trap: what is in an image is what a job put there, secrets included."""
    assert lab.run(IMAGE, "one").outcome == Succeeded()
    assert lab.run("docker images -q box | wc -l", "one") == (Succeeded(), "1\n")
    assert lab.run("docker images -aq; docker volume ls -q", "two") == (Succeeded(), "")

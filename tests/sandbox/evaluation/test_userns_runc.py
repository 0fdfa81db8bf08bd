"""userns-runc's edits: what they allow, what they never allow, and for whom."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.evaluation import userns_runc
from sandbox.evaluation.userns_runc import Call, RefusedError, cgroup_folders, edit_seccomp, edit_spec, mapped_root

Spec = dict[str, Any]


def engine_spec() -> Spec:
    """What Docker 20.10 with userns-remap gives to its runtime, in short."""
    return {
        "process": {
            "user": {"uid": 0, "gid": 0},
            "apparmorProfile": "docker-default",
            "oomScoreAdj": -500,
            "noNewPrivileges": True,
            "capabilities": {"bounding": ["CAP_CHOWN"], "ambient": ["CAP_CHOWN"]},
        },
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "ro"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro", "nosuid"]},
            {"destination": "/data", "type": "bind", "source": "/srv", "options": ["rbind", "ro"]},
        ],
        "linux": {
            "namespaces": [{"type": "mount"}, {"type": "user"}, {"type": "pid"}],
            "uidMappings": [{"containerID": 0, "hostID": 100000, "size": 65536}],
            "gidMappings": [{"containerID": 0, "hostID": 200000, "size": 65536}],
            "maskedPaths": ["/proc/kcore"],
            "readonlyPaths": ["/proc/sys"],
            "seccomp": {
                "defaultAction": "SCMP_ACT_ERRNO",
                "syscalls": [
                    {"names": ["read", "write"], "action": "SCMP_ACT_ALLOW"},
                    {"names": ["clone"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 2114060288}]},
                    {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38},
                ],
            },
        },
    }


def test_root_gets_every_capability_and_nothing_ambient() -> None:
    capabilities = edit_spec(engine_spec())["process"]["capabilities"]
    for kind in ("bounding", "effective", "permitted", "inheritable"):
        assert "CAP_SYS_ADMIN" in capabilities[kind]
        assert len(capabilities[kind]) == 41
    assert capabilities["ambient"] == []


def test_anyone_else_holds_none_but_may_become_root() -> None:
    spec = engine_spec()
    spec["process"]["user"]["uid"] = 1000
    capabilities = edit_spec(spec)["process"]["capabilities"]
    assert capabilities["effective"] == capabilities["permitted"] == capabilities["inheritable"] == []
    assert "CAP_SYS_ADMIN" in capabilities["bounding"]


def test_what_the_engine_made_for_other_capabilities_is_taken_away() -> None:
    edited = edit_spec(engine_spec())
    assert "apparmorProfile" not in edited["process"]
    assert "oomScoreAdj" not in edited["process"]
    assert edited["linux"]["maskedPaths"] == edited["linux"]["readonlyPaths"] == []
    assert {"type": "cgroup"} in edited["linux"]["namespaces"]


def test_only_the_kernels_own_file_systems_become_writable() -> None:
    options = {mount["destination"]: mount["options"] for mount in edit_spec(engine_spec())["mounts"]}
    assert options["/sys"] == ["nosuid", "rw"]
    assert options["/sys/fs/cgroup"] == ["nosuid", "rw"]
    assert options["/data"] == ["rbind", "ro"]


def test_a_cgroup_mount_is_added_where_there_is_none() -> None:
    spec = engine_spec()
    spec["mounts"] = []
    (mount,) = edit_spec(spec)["mounts"]
    assert (mount["type"], mount["destination"]) == ("cgroup", "/sys/fs/cgroup")


def test_seccomp_is_extended_and_stays() -> None:
    profile = edit_spec(engine_spec())["linux"]["seccomp"]
    assert profile["defaultAction"] == "SCMP_ACT_ERRNO"
    rules = profile["syscalls"]
    assert rules[0] == {"names": ["read", "write"], "action": "SCMP_ACT_ALLOW"}
    assert [rule for rule in rules if {"clone", "clone3"} & set(rule["names"])] == [rules[-1]]
    assert "args" not in rules[-1]
    assert {"mount", "umount2", "unshare", "setns", "pivot_root", "keyctl"} <= set(rules[-1]["names"])
    assert not {"bpf", "kexec_load", "init_module", "open_by_handle_at", "reboot"} & set(rules[-1]["names"])


@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "names": st.lists(st.sampled_from(["read", "mount", "clone", "bpf", "reboot", "clone3"])),
                "action": st.sampled_from(["SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO"]),
            }
        )
    )
)
def test_seccomp_never_lets_other_calls_change(rules: list[Spec]) -> None:
    profile = {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": rules}
    edited = edit_seccomp(profile)

    def ruled(syscalls: list[Spec]) -> list[tuple[str, str]]:
        return [(n, r["action"]) for r in syscalls for n in r["names"] if n not in userns_runc.SYSCALLS]

    assert ruled(edited["syscalls"]) == ruled(rules)
    assert edit_seccomp(edited) == edited


def test_editing_twice_is_editing_once_and_leaves_the_original() -> None:
    spec = engine_spec()
    before = copy.deepcopy(spec)
    edited = edit_spec(spec)
    assert spec == before
    assert edit_spec(edited) == edited


def test_the_mapped_root_is_found() -> None:
    assert mapped_root(engine_spec()) == (100000, 200000)


mappings = st.lists(
    st.fixed_dictionaries(
        {
            "containerID": st.integers(0, 3),
            "hostID": st.integers(-1, 3),
            "size": st.integers(0, 3),
        }
    ),
    max_size=3,
)


@given(mappings, mappings, st.booleans())
def test_no_container_without_a_user_namespace_or_with_the_hosts_root(
    uids: list[dict[str, int]], gids: list[dict[str, int]], has_namespace: bool
) -> None:
    spec = engine_spec()
    spec["linux"] |= {"uidMappings": uids, "gidMappings": gids}
    if not has_namespace:
        spec["linux"]["namespaces"] = [{"type": "mount"}]
    try:
        edit_spec(spec)
    except RefusedError:
        return
    assert has_namespace
    for mapping in [m for m in uids + gids if m["size"]]:
        assert mapping["hostID"] > 0


@pytest.mark.parametrize("linux", [None, {}, {"namespaces": [{"type": "user"}]}])
def test_a_specification_without_mapping_is_refused(linux: Spec | None) -> None:
    with pytest.raises(RefusedError):
        edit_spec(engine_spec() | {"linux": linux})


def test_anothers_user_namespace_is_refused() -> None:
    spec = engine_spec()
    spec["linux"]["namespaces"] = [{"type": "user", "path": "/proc/1/ns/user"}]
    with pytest.raises(RefusedError, match="cannot share"):
        edit_spec(spec)


def test_the_command_line_is_taken_apart_as_containerd_writes_it() -> None:
    options = "--root /r --log /b/log.json --log-format json --systemd-cgroup"
    call = Call(f"{options} create --bundle /b --pid-file /b/p --no-pivot id".split())
    assert call.command == "create"
    assert call.options["log"] == "/b/log.json"
    assert call.arguments["bundle"] == "/b"
    assert call.arguments["pid-file"] == "/b/p"
    assert call.operands == ["id"]
    assert Call(["--log=/l", "exec", "--process=/p", "-d", "id"]).arguments["process"] == "/p"
    assert Call([]).command == ""


V1_MOUNTS = """\
30 20 0:26 / /sys/fs/cgroup ro - tmpfs tmpfs ro,mode=755
31 30 0:27 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd
32 30 0:28 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
33 30 0:29 /job /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
34 30 0:30 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
""".splitlines()


def test_cgroups_are_found_on_version_1() -> None:
    memberships = ["4:memory:/job/box", "3:cpu,cpuacct:/box", "2:name=systemd:/box", "0::/", "5:pids:/box"]
    assert list(cgroup_folders(memberships, V1_MOUNTS)) == [
        "/sys/fs/cgroup/memory/box",
        "/sys/fs/cgroup/cpu,cpuacct/box",
        "/sys/fs/cgroup/systemd/box",
    ]


def test_cgroups_are_found_on_version_2() -> None:
    mounts = ["30 20 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate"]
    assert list(cgroup_folders(["0::/box/a"], mounts)) == ["/sys/fs/cgroup/box/a"]
    assert list(cgroup_folders(["0::/"], mounts)) == [], "the host's own root is never given away"


def run_wrapper(folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    """The wrapper as a command, with a runc that records how it is called and says that all went well."""
    runc = folder / "runc"
    runc.write_text(f'#!/bin/sh\necho "$@" >> {folder}/called\n', encoding="utf-8")
    runc.chmod(0o755)
    command = [sys.executable, "-I", "-S", userns_runc.__file__, *words]
    environment = os.environ | {"PATH": f"{folder}:/usr/bin:/bin"}
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30, env=environment)


def test_other_commands_go_to_runc_as_they_are(tmp_path: Path) -> None:
    assert run_wrapper(tmp_path, "--root", "/r", "kill", "id", "9").returncode == 0
    assert (tmp_path / "called").read_text() == "--root /r kill id 9\n"


def test_a_refusal_is_a_sentence_on_stderr_and_in_runcs_log(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(engine_spec() | {"linux": {"namespaces": []}}))
    log = tmp_path / "log.json"
    done = run_wrapper(tmp_path, "--log", str(log), "create", "--bundle", str(tmp_path), "id")
    assert done.returncode == 1
    assert "userns-remap" in done.stderr
    (line,) = log.read_text().splitlines()
    assert json.loads(line)["level"] == "error"
    assert json.loads(line)["msg"] == done.stderr.strip()
    assert not (tmp_path / "called").exists()


def test_a_broken_bundle_is_reported_and_not_created(tmp_path: Path) -> None:
    done = run_wrapper(tmp_path, "create", "--bundle", str(tmp_path), "id")
    assert done.returncode == 1
    assert "config.json" in done.stderr
    assert not (tmp_path / "called").exists()


def test_a_container_whose_cgroups_cannot_be_handed_over_is_deleted_again(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(engine_spec()))
    pid_file = str(tmp_path / "no-pid")
    words = ["--root", "/r", "create", "--bundle", str(tmp_path), "--pid-file", pid_file, "id"]
    assert run_wrapper(tmp_path, *words).returncode == 1
    assert (tmp_path / "called").read_text().splitlines()[-1] == "--root /r delete --force id"
    assert "CAP_SYS_ADMIN" in (tmp_path / "config.json").read_text()


def test_exec_gets_the_same_capabilities(tmp_path: Path) -> None:
    process = tmp_path / "process.json"
    process.write_text(json.dumps(engine_spec()["process"]))
    assert run_wrapper(tmp_path, "exec", "--process", str(process), "--detach", "id").returncode == 0
    assert "CAP_SYS_ADMIN" in json.loads(process.read_text())["capabilities"]["effective"]

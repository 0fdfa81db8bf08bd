"""Checks the settings of a sandbox and writes the configurations of its inner Docker Engine and sshd.

`sandbox-entrypoint` runs this before anything reads those files, and only if there is a setting: a sandbox made by a
keeper brings its files along and need not wait for Python. Reports all mistakes, one line each, and exits with 1 then.
docs/sandbox-image.md explains each setting.
"""

from __future__ import annotations

import ipaddress
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

GIVEN = Path("/etc/sandbox")
RUN = Path("/run/sandbox")
IMAGES_DAEMON_JSON = Path("/etc/docker/daemon.json")
IMAGES_SSHD_CONFIG = Path("/etc/ssh/sshd_config")
CA_STORE = Path("/usr/local/share/ca-certificates/given")
PIP_CONF = Path("/etc/pip.conf")
CA_SECONDS = 60

Value = str | int | list[str]


class Malformed(ValueError):
    """A setting or a given file is wrong. The message is a whole sentence."""


class Setting(NamedTuple):  # a dataclass costs more than all the rest of this program
    """The values that one variable may have."""

    parse: Callable[[str], Value]
    """Raises `ValueError` for a malformed value."""
    expected: str
    is_private: bool = False
    """Whether the value may contain a password, and so must not be shown."""


def _start(text: str) -> str:
    return _matched(r"eager|lazy", text)


def _mtu(text: str) -> int:
    number = int(_matched(r"[0-9]{1,5}", text))
    if not 576 <= number <= 65535:
        raise ValueError(text)
    return number


def _address(text: str) -> str:
    return str(ipaddress.ip_address(text))


def _mirror(text: str) -> str:
    return _matched(r"https?://[A-Za-z0-9.\[\]:-]+/?", text)


def _registry(text: str) -> str:
    if "/" in text:
        return str(ipaddress.ip_network(text, strict=False))
    return _matched(r"[A-Za-z0-9.-]+(:[0-9]{1,5})?|\[[0-9A-Fa-f:]+\](:[0-9]{1,5})?", text)


def _proxy(text: str) -> str:
    return _matched(r"(https?|socks5h?)://([^\s\"'\\/@]+@)?[A-Za-z0-9.\[\]:-]+/?", text)


def _exception(text: str) -> str:
    return _matched(r"[A-Za-z0-9.*:\[\]_-]+(/[0-9]{1,3})?", text)


def _matched(pattern: str, text: str) -> str:
    if not re.fullmatch(pattern, text):
        raise ValueError(text)
    return text


def _each(parse: Callable[[str], str]) -> Callable[[str], list[str]]:
    """Parse several values, separated by commas or white space."""
    return lambda text: [parse(part) for part in re.split(r"[,\s]+", text.strip(", \t\r\n"))]


_PROXY = Setting(_proxy, "a URL such as http://proxy:3128", is_private=True)
_NO_PROXY = Setting(lambda text: ",".join(_each(_exception)(text)), "hosts, domains, addresses or subnets")

DOCKER_SETTINGS: Mapping[str, Setting] = {
    "SANDBOX_REGISTRY_MIRRORS": Setting(_each(_mirror), "URLs without a path, such as https://mirror:5000"),
    "SANDBOX_INSECURE_REGISTRIES": Setting(_each(_registry), "registries as HOST, HOST:PORT or a subnet"),
    "SANDBOX_MTU": Setting(_mtu, "a number from 576 to 65535"),
    "SANDBOX_DNS": Setting(_each(_address), "IP addresses"),
}
"""The settings for daemon.json."""

PROXY_SETTINGS: Mapping[str, Setting] = {"HTTP_PROXY": _PROXY, "HTTPS_PROXY": _PROXY, "NO_PROXY": _NO_PROXY}
"""The settings for sessions; inner Docker takes them from the environment. Lower-case names work as well."""

SETTINGS: Mapping[str, Setting] = {
    "SANDBOX_DOCKER": Setting(_start, "eager or lazy"),
    **DOCKER_SETTINGS,
    **PROXY_SETTINGS,
}


def main() -> None:
    """Check everything, then write; or report all mistakes, and write nothing."""
    values, problems = read(os.environ)
    authorities, unusable = read_authorities(GIVEN / "ca")
    problems += unusable
    if not problems:
        try:
            apply(values, authorities)
        except (Malformed, OSError) as error:
            problems.append(str(error))
    for problem in problems:
        say(problem)
    sys.exit(1 if problems else 0)


def say(line: str) -> None:
    """Write one line to the sandbox's log."""
    print("sandbox: " + "".join(char if char.isprintable() else " " for char in line), file=sys.stderr)


def read(environment: Mapping[str, str]) -> tuple[dict[str, Value], list[str]]:
    """Return the settings by their names in the environment, and the mistakes in others. Empty ones count as unset."""
    values: dict[str, Value] = {}
    problems = []
    for name, text in sorted(environment.items()):
        setting = SETTINGS.get(name.upper() if name.upper() in PROXY_SETTINGS else name)
        if not text.strip():
            continue
        if setting is None:
            if name.startswith("SANDBOX_"):
                problems.append(f"There is no setting {name}; there are {', '.join(SETTINGS)}.")
            continue
        try:
            values[name] = setting.parse(text)
        except ValueError:
            found = "malformed" if setting.is_private else f"{text[:100]!r}"
            problems.append(f"{name} is {found}; expected: {setting.expected}.")
    return values, problems


def apply(values: Mapping[str, Value], authorities: Mapping[str, str]) -> None:
    """Write the settings into files. A given file counts instead of the settings that it could contain."""
    for_docker = {name: value for name, value in values.items() if name in DOCKER_SETTINGS}
    for_sessions = {name: str(value) for name, value in values.items() if name.upper() in PROXY_SETTINGS}
    if for_docker and not _is_overruled(for_docker, GIVEN / "daemon.json"):
        _write(RUN / "daemon.json", daemon_json(IMAGES_DAEMON_JSON.read_text(), for_docker))
    if for_sessions and not _is_overruled(for_sessions, GIVEN / "sshd_config", " in sessions"):
        _write(RUN / "sshd_config", sshd_config(IMAGES_SSHD_CONFIG.read_text(), for_sessions))
    trust(authorities)


def _is_overruled(settings: Mapping[str, object], file: Path, where: str = "") -> bool:
    if file.exists():
        say(f"{file} is given, and counts{where} instead of {', '.join(settings)}.")
    return file.exists()


def daemon_json(images: str, settings: Mapping[str, Value]) -> str:
    """Return the image's own configuration of the inner Docker Engine with these settings."""
    try:
        configuration = dict(json.loads(images))
    except (ValueError, TypeError):
        raise Malformed(f"The image's {IMAGES_DAEMON_JSON} is no JSON object.") from None
    keys = {
        "SANDBOX_REGISTRY_MIRRORS": "registry-mirrors",
        "SANDBOX_INSECURE_REGISTRIES": "insecure-registries",
        "SANDBOX_MTU": "mtu",
        "SANDBOX_DNS": "dns",
    }
    configuration |= {keys[name]: value for name, value in settings.items()}
    if mtu := settings.get("SANDBOX_MTU"):  # `mtu` alone is for the default bridge
        configuration["default-network-opts"] = {"bridge": {"com.docker.network.driver.mtu": str(mtu)}}
    return json.dumps(configuration, indent=2) + "\n"


def sshd_config(images: str, variables: Mapping[str, str]) -> str:
    """Return the image's own configuration of sshd with these variables for sessions, in both spellings."""
    either = {spelling: value for name, value in variables.items() for spelling in (name.upper(), name.lower())}
    words = " ".join(f"{name}={value}" for name, value in sorted((either | dict(variables)).items()))
    # sshd uses only the first such line.
    extended, found = re.subn(r"(?im)^(SetEnv\s.*)$", rf"\1 {words}", images, count=1)
    return extended if found else f"SetEnv {words}\n{images}"


def read_authorities(folder: Path) -> tuple[dict[str, str], list[str]]:
    """Return every certificate of the folder's *.crt files, each under its own file name; and the mistakes."""
    found: dict[str, str] = {}
    problems = []
    for file in sorted(folder.glob("*.crt")):
        try:
            found |= {f"{file.stem}-{number}.crt": text for number, text in enumerate(_certificates(file), 1)}
        except (Malformed, OSError) as error:
            problems.append(str(error))
    if folder.exists() and not found and not problems:
        problems.append(f"{folder} is given, and holds no file *.crt.")
    return found, problems


def _certificates(file: Path) -> Iterator[str]:
    import ssl  # noqa: PLC0415 - takes longer than all the rest, and few need it

    blocks = re.findall(
        r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", file.read_text(errors="replace"), re.DOTALL
    )
    try:
        for block in blocks:
            ssl.create_default_context(cadata=block)
    except (ssl.SSLError, ValueError):
        blocks = []
    if not blocks:
        raise Malformed(f"{file} is not usable; expected: certificates in PEM format.")
    return (f"{block}\n" for block in blocks)


def trust(authorities: Mapping[str, str]) -> None:
    """Make the system trust these authorities besides its own, and no longer those of an earlier start."""
    import subprocess  # noqa: PLC0415 - as above

    present = {file.name: file.read_text() for file in CA_STORE.glob("*.crt")}
    if present == authorities:
        return
    CA_STORE.mkdir(parents=True, exist_ok=True)
    for name in present:
        (CA_STORE / name).unlink()
    for name, text in authorities.items():
        _write(CA_STORE / name, text, 0o644)
    try:
        subprocess.run(["update-ca-certificates", "--fresh"], check=True, capture_output=True, timeout=CA_SECONDS)
    except subprocess.SubprocessError as error:
        raise Malformed(f"The authorities of {GIVEN}/ca could not be installed: {error}.") from None
    if not PIP_CONF.exists():  # pip has a list of its own
        _write(PIP_CONF, "[global]\ncert = /etc/ssl/certs/ca-certificates.crt\n", 0o644)


def _write(file: Path, text: str, mode: int = 0o600) -> None:
    file.write_text(text)
    file.chmod(mode)


if __name__ == "__main__":
    main()

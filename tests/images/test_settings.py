"""Settings of the image: each one is documented, checked, and takes effect."""

import json
import re
from ipaddress import ip_network
from pathlib import Path

import pytest
import settings
from hypothesis import given
from hypothesis import strategies as st

from sandbox.identity import KeyPair
from tests.certificates import Certificate, certificate
from tests.images.started import HELLO, Start

ROOT = Path(__file__).parents[2]
CASES = {
    "SANDBOX_DOCKER": (["eager", "lazy"], ["Lazy", "no", "eager lazy"]),
    "SANDBOX_REGISTRY_MIRRORS": (
        ["https://mirror", "http://10.0.0.1:5000/, https://mirror"],
        ["mirror:5000", "https://mirror/path", "https://user:word@mirror", 'https://m"'],
    ),
    "SANDBOX_INSECURE_REGISTRIES": (
        ["registry:5000", "10.0.0.0/8 registry", "[fd00::1]:5000"],
        ["http://registry", "10.0.0.0/99", "registry:port"],
    ),
    "SANDBOX_MTU": (["1400", "65535"], ["575", "65536", "14OO", "-1", "1400 1500"]),
    "SANDBOX_DNS": (["192.0.2.1", "192.0.2.1,2001:db8::1"], ["resolver", "192.0.2", "192.0.2.1;192.0.2.2"]),
    "HTTP_PROXY": (["http://proxy:3128", "http://me:pw@proxy"], ["proxy:3128", "ftp://x", 'http://p"', "http://a b"]),
    "HTTPS_PROXY": (["https://proxy:3128/", "socks5://10.0.0.1"], ["//proxy", "http://proxy/path"]),
    "NO_PROXY": (["localhost,.corp,10.0.0.0/8", "*"], ["http://corp", "a;b", '"corp"']),
}  # fmt: skip
PASSWORD = "unheard-of"


def test_each_setting_has_cases_and_a_line_in_the_table() -> None:
    text = (ROOT / "docs/sandbox-image.md").read_text()
    documented = re.findall(r"^\| `(\w+)` \|.*\|.*\|.*\|$", text.partition("## What is kept")[0], re.MULTILINE)
    assert set(documented) == {*settings.SETTINGS, "AUTHORIZED_KEYS"}
    assert len(documented) == len(set(documented))
    assert CASES.keys() == settings.SETTINGS.keys()


def test_the_entrypoint_asks_about_every_setting() -> None:
    """The trap: a setting that alone does not make the entrypoint look is neither checked nor used."""
    entrypoint = (ROOT / "images/sandbox/entrypoint").read_text()
    for name in settings.SETTINGS:
        spellings = [name, name.lower()] if name in settings.PROXY_SETTINGS else ["!SANDBOX_@"]
        assert all("${" + spelling in entrypoint for spelling in spellings), name


def test_each_given_file_has_a_line_in_the_table() -> None:
    text = (ROOT / "docs/sandbox-image.md").read_text()
    documented = re.findall(r"^\| `/etc/sandbox/([\w.]+)/?` \|", text, re.MULTILINE)
    entrypoint = (ROOT / "images/sandbox/entrypoint").read_text()
    assert set(documented) == set(re.findall(r"(?:\$GIVEN/|\$\(file_for )([a-z][\w.]*)", entrypoint))


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, (good, _) in CASES.items() for text in good])
def test_a_good_value(name: str, text: str) -> None:
    values, problems = settings.read({name: text, "HOME": "/root"})
    assert (list(values), problems) == ([name], [])


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, (_, bad) in CASES.items() for text in bad])
def test_a_bad_value_is_named_with_what_was_expected(name: str, text: str) -> None:
    values, [problem] = settings.read({name: text})
    assert values == {}
    assert problem.startswith(f"{name} is ")
    assert problem.endswith(f"expected: {settings.SETTINGS[name].expected}.")


def test_small_letters_count_for_proxies_only() -> None:
    values, problems = settings.read({"http_proxy": "http://proxy:3128", "SANDBOX_mtu": "1400"})
    assert list(values) == ["http_proxy"]
    assert problems == [f"There is no setting SANDBOX_mtu; there are {', '.join(settings.SETTINGS)}."]


def test_an_empty_variable_is_no_setting() -> None:
    assert settings.read(dict.fromkeys(CASES, " ")) == ({}, [])


@given(st.sampled_from(["HTTP_PROXY", "https_proxy"]), st.text().filter(lambda text: "http://" not in text))
def test_what_may_be_a_password_is_never_told(name: str, secret: str) -> None:
    """The trap: a proxy's address with a password in it would be in the log of whoever mistyped it."""
    _, problems = settings.read({name: f"http://me:{PASSWORD}@ {secret}"})
    assert [PASSWORD in problem for problem in problems] == [False]


@given(st.dictionaries(st.sampled_from(list(settings.PROXY_SETTINGS)), st.text()), st.booleans())
def test_no_value_of_a_proxy_becomes_a_line_of_sshd_config(environment: dict[str, str], has_line: bool) -> None:
    values, _ = settings.read(environment)
    written = settings.sshd_config(
        "SetEnv A=b\n" if has_line else "", {name: str(value) for name, value in values.items()}
    )
    assert len(written.splitlines()) == 1
    assert all(re.fullmatch(r"[A-Za-z_]+=[^\s\"'\\]+", word) for word in written.split()[1:])


# -- on a real engine -------------------------------------------------------------------------------------------------

REGISTRY = """
import http.server, ssl
class Answers(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        self.send_response(200 if self.path == "/v2/" else 404)
        self.send_header("Content-Length", "2"); self.end_headers(); self.wfile.write(b"{}")
    do_HEAD = do_GET
server = http.server.ThreadingHTTPServer(("", 5000), Answers)
context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
context.load_cert_chain("/tmp/server.pem")
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
"""


@pytest.fixture(scope="module")
def authority() -> Certificate:
    """Of the registry, which is its own authority."""
    return certificate("registry.test")


@pytest.mark.parametrize("docker_start", ["eager", "lazy"])
def test_python_does_not_run_for_when_docker_starts_alone(start: Start, client_key: KeyPair, docker_start: str) -> None:
    """The trap: every sandbox of a keeper has this one setting, and waited for Python before sshd."""
    environment = {"AUTHORIZED_KEYS": client_key.public, "SANDBOX_DOCKER": docker_start}
    sandbox = start(environment=environment, programs={"settings.py": b"raise SystemExit('It ran.')"})
    assert sandbox.sh("echo in") == "in\n"
    assert "It ran." not in sandbox.log()


def test_python_runs_for_any_other_setting_beside_it(start: Start) -> None:
    for more in ({"SANDBOX_MTU": "1400"}, {"SANDBOX_DOCKER": "later"}, {"no_proxy": "here"}):
        sandbox = start(
            environment={"SANDBOX_DOCKER": "eager"} | more, programs={"settings.py": b"raise SystemExit('It ran.')"}
        )
        assert sandbox.await_end() == 1
        assert "It ran." in sandbox.log()


def test_good_settings_reach_inner_docker_and_sessions(
    start: Start, client_key: KeyPair, authority: Certificate
) -> None:
    sandbox = start(
        environment={
            "AUTHORIZED_KEYS": client_key.public,
            "SANDBOX_DOCKER": "eager",
            "SANDBOX_REGISTRY_MIRRORS": "https://mirror:5000",
            "SANDBOX_INSECURE_REGISTRIES": "registry:5000, 10.1.0.0/16",
            "SANDBOX_MTU": "1400",
            "SANDBOX_DNS": "192.0.2.1",
            "HTTP_PROXY": f"http://me:{PASSWORD}@proxy:3128",
            "https_proxy": "http://proxy:3128",
            "NO_PROXY": "registry.test",
        },
        given={"ca/company.crt": b"# ours\n" + authority.public},
        hosts={"registry.test": "127.0.0.1"},
    )
    sandbox.await_docker()
    info = json.loads(sandbox.sh("docker info -f '{{json .}}'"))
    registries = info["RegistryConfig"]
    assert registries["Mirrors"] == ["https://mirror:5000/"]
    assert "registry:5000" in registries["IndexConfigs"]
    assert ip_network("10.1.0.0/16") in map(ip_network, registries["InsecureRegistryCIDRs"])
    assert (info["HttpsProxy"], info["NoProxy"]) == ("http://proxy:3128", "registry.test")
    assert info["HttpProxy"].endswith("@proxy:3128")
    assert sandbox.sh("printenv HTTP_PROXY HTTPS_PROXY https_proxy no_proxy; sudo printenv http_proxy").split() == [
        f"http://me:{PASSWORD}@proxy:3128", "http://proxy:3128", "http://proxy:3128", "registry.test",
        f"http://me:{PASSWORD}@proxy:3128",
    ]  # fmt: skip
    assert PASSWORD not in sandbox.log()
    networks = (
        "docker network create -d bridge own >/dev/null; docker network inspect bridge own -f '{{json .Options}}'"
    )
    assert sandbox.sh(networks).count('"com.docker.network.driver.mtu":"1400"') == 2
    resolvers = "while read -r line; do echo $line; done < /etc/resolv.conf"
    assert "nameserver 192.0.2.1" in sandbox.sh(HELLO + f"docker run --rm hello /bin/sh -c '{resolvers}'")
    asked = sandbox.sh(
        f"cat > /tmp/server.pem <<'EOF'\n{(authority.public + authority.private).decode()}EOF\n"
        f"python3 -c '{REGISTRY}' 2> /tmp/registry.log & trap 'kill $!' EXIT\n"
        "for i in $(seq 300); do curl --silent https://registry.test:5000/curl && break; sleep 0.1; done\n"
        "docker pull registry.test:5000/image; cat /tmp/registry.log",
        check=False,
    )
    assert "GET /curl" in asked
    assert "/v2/image/manifests" in asked, "inner Docker must get through the handshake"


RESOLVER = """
import socket
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("", 53))
while True:
    asked, client = server.recvfrom(512)
    question = asked[12 : asked.index(b"\\0", 12) + 5]
    known = question.startswith(b"\\x07made-up\\x04test\\0\\0\\x01")
    answer = b"\\xc0\\x0c\\0\\x01\\0\\x01\\0\\0\\0\\x3c\\0\\x04" + socket.inet_aton("192.0.2.77") if known else b""
    header = asked[:2] + b"\\x81\\x80" + b"\\0\\x01" + (b"\\0\\x01" if known else b"\\0\\0") + b"\\0" * 4
    server.sendto(header + question + answer, client)
"""


def test_a_given_resolver_is_asked_and_no_other(start: Start) -> None:
    """The second sandbox asks the first one, in which a program answers."""
    server = start()
    server.sh(f"cat >resolver.py <<'EOF'{RESOLVER}EOF\nsudo sh -c 'python3 resolver.py >/dev/null 2>&1 &'")
    sandbox = start(given={"resolv.conf": f"# ours\nnameserver {server.address()}\n".encode()})
    written = sandbox.sh("cat /etc/resolv.conf").splitlines()
    assert [line for line in written if line.startswith("nameserver")] == [f"nameserver {server.address()}"]
    assert not any(line.startswith("#") for line in written)
    assert sandbox.sh("getent hosts made-up.test").split() == ["192.0.2.77", "made-up.test"]


def test_a_given_resolv_conf_without_a_resolver_stops_the_start(start: Start) -> None:
    sandbox = start(given={"resolv.conf": b"search example.test\n"})
    assert sandbox.await_end() == 1
    assert "resolv.conf is given and names no name server" in sandbox.log()


def test_bad_settings_stop_the_start_and_each_is_named(start: Start) -> None:
    environment = {name: bad[0] for name, (_, bad) in CASES.items()}
    sandbox = start(environment={**environment, "SANDBOX_MUT": "1400"}, given={"ca/company.crt": b"-----BEGIN"})
    assert sandbox.await_end() == 1
    lines = sandbox.log().splitlines()
    for name in [*CASES, "SANDBOX_MUT", "company.crt"]:
        [line] = [line for line in lines if re.search(rf"\b{name}\b (is|;)|{name};", line)]
        assert line.startswith("sandbox: ")
    assert len(lines) == len(CASES) + 2


def test_given_files_count_instead_of_settings_and_the_log_says_so(start: Start, client_key: KeyPair) -> None:
    sandbox = start(
        environment={"AUTHORIZED_KEYS": client_key.public, "SANDBOX_MTU": "1400", "HTTP_PROXY": "http://proxy:3128"},
        given={
            "daemon.json": b'{"storage-driver": "overlay2"}',
            "sshd_config": (ROOT / "images/sandbox/sshd_config").read_bytes(),
        },
    )
    assert sandbox.sh("printenv HTTP_PROXY; ls /run/sandbox", check=False).split() == ["authorized_keys"]
    assert "daemon.json is given, and counts instead of SANDBOX_MTU." in sandbox.log()
    assert "sshd_config is given, and counts in sessions instead of HTTP_PROXY." in sandbox.log()


def test_docker_on_demand_starts_for_its_first_client(start: Start, client_key: KeyPair) -> None:
    """The trap: the first client must be answered, and a health check must not be one."""
    sandbox = start(environment={"AUTHORIZED_KEYS": client_key.public, "SANDBOX_DOCKER": "lazy"})
    assert sandbox.sh("sandbox-health; pgrep -x 'dockerd|containerd'", check=False).strip().endswith("when it is used")
    assert sandbox.sh("docker info -f '{{.Driver}}'").strip() == "overlay2"
    assert sandbox.sh("sandbox-health").strip() == "healthy: sshd listens, Docker answers on overlay2"
    sandbox.container.restart()
    assert sandbox.sh("pgrep -x dockerd; docker info -f '{{.Driver}}'", check=False).strip() == "overlay2"
    sandbox.container.stop()
    assert sandbox.await_end() == 0
    assert "killed" not in sandbox.log()


def test_docker_on_demand_with_a_malformed_configuration_stops_the_start(start: Start) -> None:
    """The trap: it would be found out when somebody needs Docker, and end the sandbox under them."""
    sandbox = start(environment={"SANDBOX_DOCKER": "lazy"}, given={"daemon.json": b"{"})
    assert sandbox.await_end() == 1
    assert "The given daemon.json is not usable" in sandbox.log().splitlines()[-1]

"""Every setting of `runner serve`, with its default and the reason for it.

A new setting is a field here and nothing else: its variable (`RUNNER_` and its path), its option, its line on
docs/configuration.md and in examples/runner.toml follow from it. A secret is a `SecretStr`, or several, and may also be
given by the path of a file. `About(live=True)`, or `live` of a section, marks a setting that a HUP changes: `_reread`
in `runner.serve` then passes it on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, ByteSize, Field, SecretStr, field_validator, model_validator

from runner.addresses.address import Address
from runner.execution.files.limits import DEFAULT_LIMITS, FileLimits
from runner.gitlab.containers.policy import PullPolicy
from runner.gitlab.install import MAX_GRACE
from runner.logs import Format
from runner.service.retention import RETENTION
from runner.service.signing import key_of
from runner.service.watermark import MARKS
from sandbox.places import DEFAULT_SOCKET
from sandbox.settings.model import About, Section


def _address(secret: SecretStr) -> SecretStr:
    url = secret.get_secret_value()
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or not url.isprintable():
        raise ValueError("must be an address such as https://ci.example.com/hook, without a user name")
    return secret


def _signing(secret: SecretStr | None) -> SecretStr | None:
    if secret is not None:
        key_of(secret.get_secret_value())
    return secret


def _sandbox(text: str) -> str:
    Address.parse(text)
    return text


class Api(Section):
    """The HTTP API."""

    listen: Annotated[str, About(option="--listen")] = "127.0.0.1:8080"
    """HOST:PORT of the API. By default this host alone, because without a certificate the token is sent in the
    clear."""

    token: Annotated[SecretStr | None, Field(examples=[Path("/run/secrets/runner-token")])] = None
    """The token that may do everything. None: the first start makes one and keeps it in the state folder. Give one
    where others have to know it beforehand."""

    request_rate: Annotated[float, Field(gt=0)] = 200.0
    """Requests that each token may make in a second. Far more than a client that waits for answers needs, and far less
    than would hold up the others."""

    request_burst: Annotated[int, Field(ge=1)] = 1000
    """Requests that each token may make at once before that rate applies. Enough for a build that submits hundreds of
    jobs."""

    @field_validator("token")
    @classmethod
    def _is_hard_to_guess(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and len(value.get_secret_value()) < 16:
            raise ValueError("must have at least 16 characters")
        if value is not None and not all("!" <= sign <= "~" for sign in value.get_secret_value()):
            raise ValueError("must be one word of ASCII: clients send it in a header")
        return value

    @property
    def host(self) -> str:
        """The host of `listen`."""
        return self.listen.rpartition(":")[0]

    @property
    def port(self) -> int:
        """The port of `listen`."""
        return int(self.listen.rpartition(":")[2])

    @field_validator("listen")
    @classmethod
    def _is_host_and_port(cls, value: str) -> str:
        host, _, port = value.rpartition(":")
        if not host or not (port.isascii() and port.isdecimal()) or int(port) > 65535:
            raise ValueError("must be HOST:PORT, such as 127.0.0.1:8080")
        return value


class Tls(Section):
    """HTTPS for the API."""

    certificate: Annotated[Path | None, Field(examples=[Path("/etc/runner/tls.crt")])] = None
    """Serve HTTPS with this certificate and its chain (PEM). None: HTTP, which is enough within one host."""

    key: Annotated[Path | None, Field(examples=[Path("/etc/runner/tls.key")])] = None
    """The certificate's key (PEM). It must not be encrypted: nobody is there to type a password."""

    @model_validator(mode="after")
    def _both_or_none(self) -> Self:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key belong together: give both, or none for HTTP")
        return self


class Jobs(Section):
    """Which jobs are run, and how many."""

    slots: Annotated[int, Field(ge=1, le=1000), About(live=True, option="--slots")] = 2
    """Jobs at once. As many as the keeper keeps sandboxes warm by default: more would only wait for one."""

    per_key: Annotated[int | None, Field(ge=1, examples=[2]), About(live=True, option="--per-key")] = None
    """Jobs of one trust key at once. None: as many as slots, since the queue is fair by itself."""

    labels: Annotated[tuple[str, ...], About(live=True, option="--label")] = ()
    """Labels that jobs may ask for. None: a label is a promise that only the operator can make."""

    max_run_time: Annotated[float | None, Field(ge=1, examples=[86400.0]), About(option="--max-run-time")] = None
    """Seconds after which the service stops by itself, as by TERM, for operators who recycle hosts. None: it runs
    on."""


class Sandboxes(Section):
    """Where sandboxes come from: a keeper, or the addresses of sandboxes that someone else started."""

    keeper: Annotated[Path, About(option="--keeper", also="SANDBOX_KEEPER")] = Path(DEFAULT_SOCKET)
    """The keeper's socket. By default the one that the keeper makes."""

    addresses: Annotated[
        tuple[Annotated[str, AfterValidator(_sandbox)], ...], About(option="--address", also="RUNNER_ADDRESSES")
    ] = ()
    """USER@HOST:PORT of a sandbox that someone else started, instead of a keeper's. None: sandboxes come from the
    keeper, which alone can recreate what a job broke."""

    identity: Annotated[
        Path | None,
        Field(examples=[Path("/etc/runner/id_ed25519")]),
        About(option="--identity", also="RUNNER_IDENTITY"),
    ] = None
    """Private key that opens the addresses. None: a keeper gives a key with each lease."""

    known_hosts: Annotated[Path, About(option="--known-hosts", also="RUNNER_KNOWN_HOSTS")] = Path("~/.ssh/known_hosts")
    """Host keys of every address, as ssh(1) keeps them. By default ssh's own file: people who have logged in by hand
    have the keys there."""

    address_state: Annotated[
        Path | None,
        Field(examples=[Path("/var/lib/runner/addresses")]),
        About(option="--address-state", also="RUNNER_ADDRESS_STATE"),
    ] = None
    """Folder for the runner's records of each address, one for all runners. None: /var/lib/runner/addresses for root,
    $XDG_STATE_HOME/runner/addresses for others, so that runners of one user meet there by themselves."""

    folder: Annotated[
        str | None, Field(examples=["/home/ci/runner-jobs"]), About(option="--folder", also="RUNNER_ADDRESS_FOLDER")
    ] = None
    """Folder at the addresses for jobs. None: /home/USER/runner-jobs, which the user can make."""

    @model_validator(mode="after")
    def _lets_us_in(self) -> Self:
        if self.addresses and self.identity is None:
            raise ValueError("addresses need an identity (--identity): the private key that they let in")
        return self


class GitLab(Section):
    """Jobs of GitLab, over hooks of gitlab-runner."""

    socket: Annotated[Path | None, Field(examples=[Path("/run/runner/gitlab.sock")])] = None
    """The socket for hooks of gitlab-runner. None: GitLab's jobs are not taken."""

    profile: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")] = "default"
    """The keeper's profile of the sandboxes that GitLab's jobs get: their limits, and what they reach. The default is a
    profile that every keeper has unless its file names others."""

    grace: Annotated[float, Field(ge=0, le=MAX_GRACE)] = 5.0
    """Seconds between TERM and KILL for the processes of a job's stage. Time to remove a lock file, and no more, since
    somebody waits for the end."""

    images: Annotated[tuple[str, ...], About(option="--gitlab-image")] = ("**",)
    """Pattern of images that jobs may name: `*` is anything within a part, `**` anything. All by default: a job can run
    any image in its sandbox anyway."""

    map_images: Annotated[
        tuple[Annotated[str, Field(pattern=r"^[^=]+=.+$")], ...],
        Field(examples=[("docker.io/=mirror.example.com/hub/",)]),
        About(option="--gitlab-map-image"),
    ] = ()
    """BEGINNING=REPLACEMENT for the names of images in jobs. None: images come from where the job says."""

    pull_policies: Annotated[tuple[PullPolicy, ...], About(option="--gitlab-pull-policy")] = (PullPolicy.ALWAYS,)
    """Pull policies for jobs that name none, in the order in which they are tried. The same default as
    gitlab-runner's."""

    log_bytes: ByteSize = ByteSize(256 * 1024**2)
    """Output of one stage that is passed on, such as `256MiB`; more is dropped, and the job's log says so. Many times
    what gitlab-runner keeps of a whole job by default (4 MiB), and bounded, since it lies on the runner's disk
    meanwhile."""

    service_wait: Annotated[float, Field(ge=0, le=600)] = 30.0
    """Seconds for all services of a job together to answer at their ports; then the job goes on without them. The same
    as gitlab-runner's own `wait_for_services_timeout`."""

    cache: Annotated[Path | None, Field(examples=[Path("/var/lib/runner/gitlab-cache")])] = None
    """Folder for caches of jobs. None: caches are not kept, because they take disk space that somebody has to plan."""

    cache_bytes: ByteSize = ByteSize(20 * 1024**3)
    """Bytes of caches to keep, such as `20GiB`; fewer where their disk would be low. The cache that was not used for
    the longest time goes first. Room for some dozens of caches of usual size, on a disk of usual size."""

    helper: Annotated[Path | None, Field(examples=[Path("/run/runner/gitlab-runner")])] = None
    """A gitlab-runner or gitlab-runner-helper that jobs are given, for caches and artifacts. None: the sandbox image
    has one, or jobs do without."""


class Webhooks(Section):
    """Who is told when a job has ended."""

    urls: Annotated[
        tuple[Annotated[SecretStr, AfterValidator(_address)], ...],
        Field(examples=[Path("/run/secrets/runner-webhooks-urls")]),
    ] = ()
    """URLs of the receivers that are told of each job's end; in a file, one line each. Secret, since anybody who knows
    such a URL can often write to it. None: nobody is told. Only here, and never in a job: a job could make the runner
    send something to any address that it reaches."""

    secret: Annotated[
        SecretStr | None, AfterValidator(_signing), Field(examples=[Path("/run/secrets/runner-webhooks")])
    ] = None
    """The key that signs messages: `whsec_` and the base64 of 24 to 64 random bytes. None: there are no receivers."""

    timeout: Annotated[float, Field(gt=0, le=60)] = 10.0
    """Seconds for one try to deliver a message. A receiver with more to do should answer first and do it afterwards."""

    give_up: Annotated[float, Field(ge=60, le=30 * 24 * 3600)] = 3 * 24 * 3600.0
    """Seconds after which a message that nobody takes is given up: a weekend, and the day on which somebody sees it."""

    @model_validator(mode="after")
    def _signed(self) -> Self:
        if self.urls and self.secret is None:
            raise ValueError("urls need a secret, which the messages are signed with")
        return self

    @property
    def receivers(self) -> tuple[str, ...]:
        """The addresses of `urls`, for sending only: they must not be shown."""
        return tuple(url.get_secret_value() for url in self.urls)


class Retention(Section):
    """Limits on finished jobs: as soon as one is reached, the oldest jobs go, with their logs and artifacts."""

    age: Annotated[float, Field(gt=0), About(live=True)] = RETENTION.age
    """Seconds that a finished job is kept. A month: by then, anybody who asks why a build broke has rebuilt it."""

    bytes: Annotated[ByteSize, About(live=True)] = ByteSize(RETENTION.bytes)
    """Bytes that logs and artifacts of finished jobs may have together. Ten of the largest logs (2 GiB), or ten
    thousand usual ones (2 MiB)."""

    jobs: Annotated[int, Field(ge=0), About(live=True)] = RETENTION.jobs
    """The most finished jobs that are kept. Each takes about 1 KiB in the database."""


class Disk(Section):
    """Free space on the disk of the state folder."""

    low: Annotated[ByteSize, About(live=True)] = ByteSize(MARKS.low)
    """Free bytes on the disk of the state folder below which no new job starts; a tenth of the disk if that is less. It
    is the size of the largest log of one job."""

    full: Annotated[ByteSize, About(live=True)] = ByteSize(MARKS.full)
    """Free bytes on that disk below which no jobs are taken either; a hundredth of the disk if that is less. Outcomes
    need some of it, and so does the person who makes room."""

    @model_validator(mode="after")
    def _low_comes_first(self) -> Self:
        if self.low < self.full:
            raise ValueError("low must not be less than full: a disk that fills up is low first, and full then")
        return self


class Files(Section):
    """Limits on the files of one job: its source, and the artifacts that are kept of it."""

    archive_bytes: ByteSize = ByteSize(DEFAULT_LIMITS.archive_bytes)
    """Bytes of an archive that a job starts from, uploaded or fetched. Room for a large repository with its history,
    but not for an image of a disk."""

    source_bytes: ByteSize = ByteSize(DEFAULT_LIMITS.source_bytes)
    """Bytes that such an archive may unpack to, on the sandbox's disk. The profile's limit for that disk comes
    first."""

    source_files: Annotated[int, Field(ge=1)] = DEFAULT_LIMITS.source_files
    """Files that such an archive may unpack to. Ten times those of a large project with all its dependencies."""

    source_deadline: Annotated[float, Field(gt=0)] = DEFAULT_LIMITS.source_deadline
    """Seconds until a job's source must be there. A git host that hangs holds up a sandbox and a slot."""

    artifact_bytes: ByteSize = ByteSize(DEFAULT_LIMITS.artifact_bytes)
    """Bytes of files that are kept of one job, before they are compressed. They lie on the disk of the state folder."""

    artifact_files: Annotated[int, Field(ge=1, le=100_000)] = DEFAULT_LIMITS.artifact_files
    """The most files that are kept of one job, 100,000 as all their names are in one list. A job with more has to pack
    them."""

    artifact_deadline: Annotated[float, Field(gt=0)] = DEFAULT_LIMITS.artifact_deadline
    """Seconds in which a job's files must be collected. The sandbox and the slot wait for them."""

    def limits(self) -> FileLimits:
        """Return the limits for the code that applies them."""
        return FileLimits(**self.model_dump())


class Log(Section):
    """The service's own log, on stderr."""

    format: Annotated[Format, About(option="--log-format")] = Format.TEXT
    """`text` or `json` (docs/logs.md). Text by default: a person reads the log of a service that was just started."""


class Config(Section):
    """All settings."""

    variables: ClassVar = "RUNNER"

    state: Annotated[Path, About(option="--state")] = Path("/var/lib/runner")
    """Folder for the API token, jobs, logs and outcomes. By default where a host keeps data that services must not
    lose."""

    api: Api = Api()
    tls: Tls = Tls()
    jobs: Jobs = Jobs()
    sandboxes: Sandboxes = Sandboxes()
    gitlab: GitLab = GitLab()
    webhooks: Webhooks = Webhooks()
    retention: Retention = Retention()
    disk: Disk = Disk()
    files: Files = Files()
    log: Log = Log()

    @model_validator(mode="after")
    def _gitlab_needs_a_keeper(self) -> Self:
        if self.gitlab.socket and self.sandboxes.addresses:
            raise ValueError("GitLab's jobs need a keeper's sandboxes: leave out gitlab.socket, or sandboxes.addresses")
        return self

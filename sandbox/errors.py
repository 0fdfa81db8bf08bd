"""What can go wrong in this package.

    SandboxError
    ├── ConfigError           a setting is wrong
    ├── EngineError           the Docker Engine refused something
    │   ├── EngineUnreachable nobody answers on its socket
    │   ├── EngineTimeout     it did not answer within the deadline
    │   ├── ImageMissing      the sandbox image is not on the engine
    │   ├── RuntimeMissing    the configured runtime is not registered, or not the one that was used
    │   └── StorageUnfit      its storage does not let the host read what a job left
    ├── BuildFailed           an image could not be built
    ├── WallsDown             the walls around the sandboxes cannot stand (`sandbox.network`)
    ├── SandboxFault          one sandbox is not fit for use
    ├── NoSuchSandbox         there is no sandbox of that name
    ├── NameInUse             there is a sandbox of that name already
    ├── SandboxUnreachable    a sandbox runs where this process cannot connect to it
    ├── ConnectionLost        the connection to a sandbox broke: nobody knows how its command ended
    ├── CommandFailed         a command in a sandbox ended with another code than 0
    ├── CommandTimedOut       a command in a sandbox took too long, and was ended
    ├── OutputTooLarge        a command printed more than is kept in memory
    ├── TransferFailed        files could not be copied into a sandbox, or out of it
    │   └── TransferRefused   what a sandbox sent is not safe to write
    └── KeeperError           the keeper did not do what was asked
        ├── KeeperUnreachable nobody answers on the keeper's socket
        ├── KeeperRefused     the keeper answered no
        ├── NotNow            it cannot do it now; asking again may help
        └── ProtocolError     the other side of the socket does not speak our protocol

A message is a sentence with the cause, followed by the next step where there is one.
"""

from collections.abc import Iterable
from enum import StrEnum


class SandboxError(Exception):
    """Root of every error that this package raises on purpose."""


class ConfigError(SandboxError):
    """A setting is wrong; the message names the file and the field."""


class EngineError(SandboxError):
    """The Docker Engine refused a request."""


class EngineUnreachable(EngineError):
    """Nobody answers on the Docker Engine's socket."""


class EngineTimeout(EngineError):
    """The Docker Engine did not answer within the deadline. It may still do what was asked."""


class ImageMissing(EngineError):
    """The image is not on the engine."""


class RuntimeMissing(EngineError):
    """The configured runtime is not registered with the engine, or a container reports another one."""


class StorageUnfit(EngineError):
    """The engine's storage does not let the host read what a job left in a container."""


class BuildFailed(SandboxError):
    """An image could not be built; Docker's output went to stderr."""


class Fault(StrEnum):
    """Why a sandbox is unfit. The values are stable: logs and `sandbox ls --json` contain them."""

    GONE = "gone"
    STOPPED = "stopped"
    WRONG_RUNTIME = "wrong-runtime"
    SSH_DEAD = "ssh-dead"
    HOST_KEY_CHANGED = "host-key-changed"
    LOGIN_REFUSED = "login-refused"
    DOCKER_DEAD = "docker-dead"
    WRONG_STORAGE_DRIVER = "wrong-storage-driver"
    PROBE_FAILED = "probe-failed"
    PROCESSES_LEFT = "processes-left"
    UNFREEZABLE = "unfreezable"
    USED = "used"
    DAMAGED = "damaged"
    DISK_LIMIT = "disk-limit"
    HOST_DISK = "host-disk"
    ENGINE_FAILED = "engine-failed"
    RUNTIME_LOST = "runtime-lost"
    NO_SUBNET = "no-subnet"
    NO_WALLS = "no-walls"
    KEEPER_DEFECT = "keeper-defect"
    LEASE_EXPIRED = "lease-expired"
    CONDEMNED_BY_RUNNER = "condemned-by-runner"
    RECREATE_POLICY = "recreate-policy"
    IMAGE_REPLACED = "image-replaced"
    OTHER_TRUST_KEY = "other-trust-key"
    HOLD_OVER = "hold-over"
    KEEPER_STOPPED = "keeper-stopped"

    @property
    def is_quiet(self) -> bool:
        """Whether nothing is wrong: the sandbox is thrown away as planned, and nobody needs to know."""
        return self in _QUIET


_QUIET = frozenset({Fault.RECREATE_POLICY, Fault.IMAGE_REPLACED, Fault.OTHER_TRUST_KEY, Fault.HOLD_OVER, Fault.USED})


class SandboxFault(SandboxError):
    """A sandbox is unfit: `fault` is the kind, the message what was seen, and `seen` the kinds of the findings."""

    def __init__(self, fault: Fault, message: str, seen: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.fault = fault
        self.seen = frozenset(seen)


class NoSuchSandbox(SandboxError):
    """There is no sandbox of that name."""


class NameInUse(SandboxError):
    """There is a sandbox of that name already."""


class SandboxUnreachable(SandboxError):
    """A sandbox runs where this process cannot connect to it."""


class ConnectionLost(SandboxError):
    """The connection to a sandbox broke: nobody knows how its command ended."""


class CommandFailed(SandboxError):
    """A command in a sandbox ended with another code than 0: `exit_code`."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class CommandTimedOut(SandboxError):
    """A command in a sandbox took too long, and was ended."""


class OutputTooLarge(SandboxError):
    """A command printed more than is kept in memory, and was ended."""


class TransferFailed(SandboxError):
    """Files could not be copied into a sandbox, or out of it."""


class TransferRefused(TransferFailed):
    """What a sandbox sent is not safe to write; none of it was kept."""


class KeeperError(SandboxError):
    """The keeper did not do what was asked."""


class KeeperUnreachable(KeeperError):
    """Nobody answers on the keeper's socket."""


class KeeperRefused(KeeperError):
    """The keeper answered no; the message is the keeper's own."""


class NotNow(KeeperError):
    """The keeper answered that it cannot do it now. Nothing is lost: asking again may help."""


class ProtocolError(KeeperError):
    """The other side of the socket sent something that is not our protocol."""

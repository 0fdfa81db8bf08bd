"""The errors of the runner.

    RunnerError
    ├── BadJobError              the job cannot be run as it was written
    ├── ConfigError              a setting is wrong
    ├── InputError               a named file or service cannot be read or reached
    ├── ClientError              the service cannot be found, does not answer, or refuses
    ├── LogError                 the log cannot be made or written
    ├── LeaseError               the source of leases could not do what was asked
    │   ├── LeaseUnreachableError  nobody answered: asking again may help
    │   └── LeaseLostError       the lease is no longer ours and never will be again
    ├── SandboxError             the sandbox or the way to it is broken
    │   ├── ConnectError         no session could be opened: nothing of the job was sent
    │   ├── ConnectionLostError  an open session broke
    │   ├── ProtocolError        the sandbox's side broke the protocol
    │   ├── LaunchRefusedError   the launcher in the sandbox could not start the script
    │   ├── AttemptLostError     the sandbox does not know how the attempt ended, and never will
    │   ├── TransferError        a file could not be brought into the sandbox or out of it
    │   └── SourceError          the sandbox cannot get the source of a job
    ├── DetachedError            the runner leaves a job to a later life of its own
    ├── GitLabError              a hook of GitLab's custom executor cannot be served
    │   ├── CacheError           a cache cannot be kept
    │   ├── InstallError         gitlab-runner's configuration cannot be made, read or written
    │   └── ResponseError        the job response cannot be read
    └── ServiceError             the service cannot do what was asked
        ├── StateError           its state cannot be read or written
        │   └── StateBusyError   another program holds it: asking again helps
        ├── IllegalMoveError     a job cannot move like that, which is a defect
        ├── BusyError            too many jobs or archives wait
        ├── RequestReusedError   a client's name for one submission was used for another one
        ├── WrongModeError       it is about to end, and cannot drain or resume
        └── StoppingError        it is stopping and takes no more jobs

Every message is a sentence with the cause and, where there is one, the next step. A script that fails is not an error:
see `runner.outcome`.
"""

from __future__ import annotations


class RunnerError(Exception):
    """The base of all errors that this package raises on purpose."""


class BadJobError(RunnerError):
    """The job cannot be run as it was written; `field` is the path to the wrong field, if it is one."""

    def __init__(self, message: str, *, field: tuple[int | str, ...] = ()) -> None:
        super().__init__(f"{'.'.join(map(str, field))}: {message}" if field else message)
        self.field = field


class ConfigError(RunnerError):
    """Settings are wrong; the message names each and its place."""


class InputError(RunnerError):
    """A named file or service cannot be read or reached."""


class ClientError(RunnerError):
    """The service cannot be found, does not answer, or refuses."""


class LogError(RunnerError):
    """The log cannot be made or written."""


class LeaseError(RunnerError):
    """The source of leases could not do what was asked. Asking again may help."""


class LeaseUnreachableError(LeaseError):
    """The source of leases did not answer. Asking again helps when it is back."""


class LeaseLostError(LeaseError):
    """The lease was taken away. Asking again cannot help."""


class SandboxError(RunnerError):
    """The sandbox or the way to it is broken."""


class ConnectError(SandboxError):
    """No session could be opened. Nothing of the job was sent."""


class ConnectionLostError(SandboxError):
    """An open session broke."""


class ProtocolError(SandboxError):
    """The sandbox's side broke the protocol."""


class LaunchRefusedError(SandboxError):
    """The launcher in the sandbox could not start the script, and says so."""


class AttemptLostError(SandboxError):
    """The sandbox does not know how the attempt ended, or is not the one that it ran in. Asking again cannot help."""


class TransferError(SandboxError):
    """A file could not be brought into the sandbox or out of it. The session goes on."""


class SourceError(SandboxError):
    """The sandbox could not get the source of a job, for a reason that another sandbox would meet too."""


class DetachedError(RunnerError):
    """The runner was told to leave: a running job goes on in its sandbox, and an unstarted job stays unstarted."""


class GitLabError(RunnerError):
    """A hook of GitLab's custom executor cannot be served."""


class CacheError(GitLabError):
    """A cache cannot be kept."""


class InstallError(GitLabError):
    """gitlab-runner's configuration cannot be made, read or written."""


class ResponseError(GitLabError):
    """The job response that gitlab-runner passed on cannot be read."""


class ServiceError(RunnerError):
    """The service cannot do what was asked."""


class StateError(ServiceError):
    """The service's state cannot be read or written."""


class StateBusyError(StateError):
    """Another program holds the service's state for now. Asking again helps."""


class IllegalMoveError(ServiceError):
    """A job cannot move like that, which is a defect."""


class BusyError(ServiceError):
    """Too many jobs, or archives for jobs, wait already."""


class RequestReusedError(ServiceError):
    """A client's name for one submission was used for another one."""


class WrongModeError(ServiceError):
    """The service is about to end, and cannot drain or resume."""


class StoppingError(ServiceError):
    """The service is stopping and takes no more jobs."""

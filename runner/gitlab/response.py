"""Parses GitLab's description of a job, `JOB_RESPONSE_FILE`, into a closed vocabulary. No input or output here.

The file is the answer to gitlab-runner's `POST /api/v4/jobs/request`, encoded again by Go: a field that GitLab did not
send is 0, an empty text, or null. The job's author wrote most of it. Decisions about trust use only values that a job's
variables cannot shadow: fields, and GitLab's own variables, which come before the job's. gitlab-runner's own variables
are not in the file. They are filled in where the job uses them, and decide nothing.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from runner.errors import ResponseError

MAX_RESPONSE: Final = 64 * 1024 * 1024
"""Largest response, in bytes. GitLab's own limit for a job's configuration is far lower."""
DEFAULT_TIMEOUT: Final = 7200.0
"""Seconds for a job whose response sets no timeout: gitlab-runner's own default."""

PROJECT_FIELD: Final = "job_info.project_id"
PROTECTED_FIELD: Final = "git_info.protected"
"""The fields' names in `GitLabJob.missing`."""

_WITHHELD: Final = frozenset(
    {
        "CI_JOB_SERVICES", "CI_SERVER_TLS_CA_FILE", "CI_SERVER_TLS_CERT_FILE", "CI_SERVER_TLS_KEY_FILE",
        "DOCKER_AUTH_CONFIG",
    }
)  # fmt: skip
"""Those of gitlab-runner's own variables that hold secrets or the contents of files. No container gets them."""
_FILES: Final = "RUNNER_TEMP_PROJECT_DIR"
"""Names the folder for file variables in gitlab-runner's scripts. It comes after the job's own variables, so none
shadows it."""
_MERGE_REQUEST_REF: Final = "refs/merge-requests/"
_SOURCE_PROJECT: Final = "CI_MERGE_REQUEST_SOURCE_PROJECT_ID"
_REF_PROTECTED: Final = "CI_COMMIT_REF_PROTECTED"
_REFERENCE: Final = re.compile(r"\$(?:\{(?P<braced>[^{}]*)\}|(?P<plain>[A-Za-z0-9_]+|\$))")


@dataclass(frozen=True, slots=True)
class Image:
    """A container image as the job names it, with variables expanded."""

    name: str
    entrypoint: tuple[str, ...] | None = None
    """None means the image's own entrypoint; an empty tuple means no entrypoint."""
    user: str | None = None
    pull_policies: tuple[str, ...] = ()
    platform: str | None = None


@dataclass(frozen=True, slots=True)
class Service:
    """A container beside the job's script."""

    image: Image
    aliases: tuple[str, ...] = ()
    command: tuple[str, ...] | None = None
    """None means the image's own command."""
    variables: Mapping[str, str] = field(default_factory=dict, repr=False)
    """The service's own variables, as GitLab expanded them."""


@dataclass(frozen=True, slots=True)
class Credential:
    """A login to a container registry."""

    registry: str
    username: str = field(repr=False)
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class GitLabJob:
    """One job, as far as the runner needs it."""

    id: int
    token_hash: str
    """SHA-256 of the job's token, enough to recognise the job."""
    instance: str
    """The address of the job's GitLab; empty if the response is not from a GitLab, which always sends it."""
    project: int
    """The project's number there; 0 when unknown."""
    protected: bool
    """Whether the job's branch or tag is protected."""
    fork: bool
    """Whether the job runs code from outside of the project: a fork's merge request."""
    missing: tuple[str, ...] = ()
    """Missing fields that decide about trust; the least trust was assumed."""
    timeout: float = DEFAULT_TIMEOUT
    """Seconds that the whole job may take."""
    image: Image | None = None
    services: tuple[Service, ...] = ()
    credentials: tuple[Credential, ...] = field(default=(), repr=False)
    needs_helper: bool = False
    """Whether the job's scripts call `gitlab-runner`, for a cache, or for artifacts of its own or of earlier jobs."""
    variables: Mapping[str, str] = field(default_factory=dict, repr=False)
    """The job's own variables and GitLab's, expanded. Of equal names, the last one counts, as in gitlab-runner."""
    runner_variables: Mapping[str, str] = field(default_factory=dict, repr=False)
    """gitlab-runner's own variables, such as `CI_PROJECT_DIR`, and those from its configuration."""
    service_variables: Mapping[str, str] = field(default_factory=dict, repr=False)
    """The variables for services: gitlab-runner's, and the public ones of the others. A file variable is its path."""


def parse(content: bytes, given: Mapping[str, str] = MappingProxyType({})) -> GitLabJob:
    """Return the job that a response describes.

    `given`: the job's variables as gitlab-runner has them, expanded. For variables that GitLab sent, the response
    counts, as it says which ones are public.
    Raises ResponseError when the response describes no job that can run; the error's text quotes no value of it.
    """
    if len(content) > MAX_RESPONSE:
        raise ResponseError(f"The job response has more than {MAX_RESPONSE} bytes.")
    try:
        response = _Response.model_validate_json(content)
    except (ValidationError, RecursionError) as error:
        raise ResponseError(f"The job response cannot be read: {_what_is_wrong(error)}.") from None
    own = _of_the_runner(response, given)
    listed = _expanded([variable for variable in response.variables if variable.key != _FILES], own)
    known = {**own, **_meanings(listed, own)}
    public = [variable for variable in listed if variable.public or variable.internal]
    return GitLabJob(
        id=response.id,
        token_hash=hashlib.sha256(response.token.encode(errors="surrogatepass")).hexdigest(),
        instance=_instance(response),
        project=response.job_info.project_id or 0,
        protected=_is_protected(response) is True,
        fork=_is_from_fork(response),
        missing=tuple(_missing(response)),
        timeout=float(response.runner_info.timeout or DEFAULT_TIMEOUT),
        image=_image(response.image, known) if response.image and response.image.name else None,
        services=tuple(_service(service, known) for service in response.services if service.name),
        credentials=tuple(
            Credential(entry.url, entry.username, entry.password)
            for entry in response.credentials
            if entry.type == "registry"
        ),
        needs_helper=bool(response.artifacts or response.cache) or any(map(_has_artifacts, response.dependencies)),
        variables=MappingProxyType({variable.key: variable.value for variable in listed}),
        runner_variables=MappingProxyType(own),
        service_variables=MappingProxyType({**own, **_meanings(public, own)}),
    )


def expand(text: str, variables: Mapping[str, str]) -> str:
    """Return a text with `$NAME` and `${NAME}` replaced as in gitlab-runner: once, and unknown names by nothing."""

    def value(reference: re.Match[str]) -> str:
        name = reference["braced"] if reference["plain"] is None else reference["plain"]
        return "$" if name == "$" else variables.get(name, "")

    return _REFERENCE.sub(value, text)


# -- what the file says -----------------------------------------------------------------------------------------------


def _none_is_empty(value: object) -> object:
    return [] if value is None else value  # Go writes null for a list that was never filled


def _none_is_object(value: object) -> object:
    return {} if value is None else value


def _to_text(value: object) -> object:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


_Words = Annotated[list[str], BeforeValidator(lambda value: [value] if isinstance(value, str) else value)]
_Text = Annotated[str, BeforeValidator(_to_text)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, hide_input_in_errors=True, allow_inf_nan=False)


class _JobInfo(_Part):
    project_id: Annotated[int, Field(strict=True, ge=0)] | None = None
    project_full_path: str = ""


class _GitInfo(_Part):
    repo_url: str = ""
    ref: str = ""
    refspecs: Annotated[list[str], BeforeValidator(_none_is_empty)] = []
    protected: Annotated[bool, Field(strict=True)] | None = None


class _RunnerInfo(_Part):
    timeout: Annotated[int, Field(strict=True, ge=0, le=10**9)] | None = None


class _Variable(_Part):
    key: str
    value: str = ""
    public: bool = False
    internal: bool = False
    file: bool = False
    raw: bool = False


class _DockerOptions(_Part):
    platform: str | None = None
    user: _Text | None = None


class _ExecutorOptions(_Part):
    docker: Annotated[_DockerOptions, BeforeValidator(_none_is_object)] = _DockerOptions()


class _Image(_Part):
    name: str | None = None
    alias: str | None = None
    entrypoint: _Words | None = None
    command: _Words | None = None
    pull_policy: Annotated[_Words, BeforeValidator(_none_is_empty)] = []
    executor_opts: Annotated[_ExecutorOptions, BeforeValidator(_none_is_object)] = _ExecutorOptions()
    variables: Annotated[list[_Variable], BeforeValidator(_none_is_empty)] = []


class _Credential(_Part):
    type: str = ""
    url: str = ""
    username: str = ""
    password: str = ""


class _Archive(_Part):
    filename: str = ""


class _Dependency(_Part):
    artifacts_file: _Archive | None = None


class _Response(_Part):
    id: Annotated[int, Field(strict=True, gt=0, lt=1 << 63)]
    token: Annotated[str, Field(max_length=65536)] = ""
    job_info: Annotated[_JobInfo, BeforeValidator(_none_is_object)] = _JobInfo()
    git_info: Annotated[_GitInfo, BeforeValidator(_none_is_object)] = _GitInfo()
    runner_info: Annotated[_RunnerInfo, BeforeValidator(_none_is_object)] = _RunnerInfo()
    variables: Annotated[list[_Variable], BeforeValidator(_none_is_empty)] = []
    image: _Image | None = None
    services: Annotated[list[_Image], BeforeValidator(_none_is_empty)] = []
    credentials: Annotated[list[_Credential], BeforeValidator(_none_is_empty)] = []
    secrets: Annotated[dict[str, Any], BeforeValidator(_none_is_object)] = {}
    artifacts: Annotated[list[Any], BeforeValidator(_none_is_empty)] = []
    cache: Annotated[list[Any], BeforeValidator(_none_is_empty)] = []
    dependencies: Annotated[list[_Dependency], BeforeValidator(_none_is_empty)] = []


# -- what it means ----------------------------------------------------------------------------------------------------


def _of_the_runner(response: _Response, given: Mapping[str, str]) -> dict[str, str]:
    """Return gitlab-runner's variables that are public or internal to it; secrets from a vault are neither."""
    known = {variable.key for variable in response.variables}.union(response.secrets, _WITHHELD) - {_FILES}
    return {name: value for name, value in given.items() if name not in known}


def _expanded(listed: list[_Variable], known: Mapping[str, str]) -> list[_Variable]:
    meanings = {**known, **_meanings(listed, known)}
    return [
        variable
        if variable.raw or variable.file
        else variable.model_copy(update={"value": expand(variable.value, meanings)})
        for variable in listed
    ]


def _meanings(listed: list[_Variable], known: Mapping[str, str]) -> dict[str, str]:
    """Return the value of each name in a text or in a container; a file variable's value is its file's path."""
    folder = known.get(_FILES, "")
    return {variable.key: f"{folder}/{variable.key}" if variable.file else variable.value for variable in listed}


def _image(image: _Image, variables: Mapping[str, str]) -> Image:
    docker = image.executor_opts.docker
    return Image(
        name=expand(image.name or "", variables),
        entrypoint=None if image.entrypoint is None else tuple(image.entrypoint),
        user=expand(docker.user, variables) if docker.user else None,
        pull_policies=tuple(image.pull_policy),
        platform=expand(docker.platform, variables) if docker.platform else None,
    )


def _service(service: _Image, variables: Mapping[str, str]) -> Service:
    own = _meanings(_expanded(service.variables, variables), variables)
    return Service(
        image=_image(service, variables),
        aliases=tuple(expand(service.alias or "", variables).replace(",", " ").split()),
        command=None if service.command is None else tuple(service.command),
        variables=MappingProxyType(own),
    )


def _has_artifacts(dependency: _Dependency) -> bool:
    return dependency.artifacts_file is not None and dependency.artifacts_file.filename != ""


def _instance(response: _Response) -> str:
    """Return the address of GitLab's projects, taken from the address of the job's repository.

    GitLab makes that from its own settings. `CI_SERVER_URL` is a variable, which a job may set again, and a copy of an
    instance has the same `job_info.instance_uuid`. If the project's path was not sent, the address is the project's.
    """
    try:
        address = urlsplit(response.git_info.repo_url)
    except ValueError:
        return ""
    host = address.netloc.rpartition("@")[2].lower()  # before the `@` is the job's token
    if address.scheme not in {"http", "https"} or not host:
        return ""
    root = address.path.removesuffix(".git").removesuffix(f"/{response.job_info.project_full_path}")
    return f"{address.scheme}://{host}{root}"


def _is_protected(response: _Response) -> bool | None:
    """Return whether GitLab calls the ref protected; None if it does not say.

    The field exists since GitLab and gitlab-runner 18.3. Before, the variable says it; of several, the first one is
    GitLab's, as in gitlab-runner's own `IsProtected` (`common/build.go`).
    """
    if response.git_info.protected is not None:
        return response.git_info.protected
    return next((variable.value == "true" for variable in response.variables if variable.key == _REF_PROTECTED), None)


def _is_from_fork(response: _Response) -> bool:
    """Search all values: GitLab lists its own variables before the job's, so a job can add a value but remove none."""
    git = response.git_info
    requested = any(_MERGE_REQUEST_REF in ref for ref in (git.ref, *git.refspecs))
    sources = {variable.value for variable in response.variables if variable.key == _SOURCE_PROJECT}
    return bool(sources - {str(response.job_info.project_id)}) or (requested and not sources)


def _missing(response: _Response) -> Iterator[str]:
    if not response.job_info.project_id:
        yield PROJECT_FIELD
    if _is_protected(response) is None:
        yield PROTECTED_FIELD


def _what_is_wrong(error: ValidationError | RecursionError) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    first: Any = error.errors(include_input=False, include_url=False)[0]
    place = ".".join(str(part) for part in first["loc"])[:100]
    return f"{place or 'the whole'} ({first['type']})"

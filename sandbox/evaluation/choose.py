"""Chooses the engine and the runtime for this host, with a reason."""

from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from sandbox.evaluation import engine_api
from sandbox.evaluation.layout import RUNTIME, Layout

SYSBOX = "sysbox-runc"


@dataclass(frozen=True, slots=True)
class Choice:
    """An engine and a runtime. `url` is `None` for the engine that the environment names."""

    url: str | None
    runtime: str
    because: str

    @property
    def is_private(self) -> bool:
        """Whether this is the private engine, which must be brought up."""
        return self.runtime == RUNTIME


def decide(host_runtimes: AbstractSet[str] | None, private_url: str) -> Choice:
    """Choose sysbox wherever it is; otherwise the private engine. `None`: no engine answers on this host."""
    if host_runtimes is not None and SYSBOX in host_runtimes:
        return Choice(None, SYSBOX, "this host's Docker Engine has sysbox-runc registered")
    if host_runtimes is None:
        found = "no Docker Engine answers on this host"
    else:
        found = "this host's Docker Engine has no sysbox-runc registered, and is left as it is"
    return Choice(
        private_url,
        RUNTIME,
        f"{found}; a private engine with {RUNTIME} is for evaluation and tests, not for jobs that you do not trust",
    )


def choose(layout: Layout) -> Choice:
    """Look at the host and decide."""
    return decide(engine_api.runtimes(None), layout.url)

"""The checks, in the order in which to repair a runner: each judges the facts and nothing else. Pure.

`docs/runner-doctor.md` has an entry for each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from runner.config.model import Config
from runner.doctor.facts import Facts
from runner.service.watermark import Disk, Marks, judge
from sandbox import report
from sandbox.health import HostState
from sandbox.report import Check, Found, Result, Unknown, bad, dubious, good, unchecked
from sandbox.settings.loaded import Loaded, Source

PAGE: Final = "docs/runner-doctor.md"
AHEAD: Final = 60.0
"""Seconds by which a record may be ahead of the clock: clocks are corrected in small steps all the time."""
PAST: Final = 1735689600.0
"""2025-01-01 in seconds since 1970. A clock that shows an earlier time is wrong."""
_RECREATED: Final = "`sandbox ls` has what was recreated, and why; the keeper's log has the rest."
_NO_CONFIGURATION: Final = unchecked("The configuration has to be right first.")


def run(facts: Facts) -> Iterator[Found]:
    """Yield every check with its result, in order; then what `sandbox doctor` found."""
    yield from report.run(CHECKS, facts)
    if isinstance(facts.host, tuple):
        yield from facts.host


def _configuration(facts: Facts) -> Result:
    match facts.configuration:
        case Unknown(why):
            return bad(why, "Correct what is named. `runner config check` tells the same.")
        case Loaded(remarks=(first, *_)):
            return dubious(first, "Correct its name, or remove it.")
        case loaded:
            given = [one for one in loaded.values() if one.origin.source is not Source.DEFAULT]
            return good(f"Nothing is wrong with it; {len(given)} settings are given (`runner config show`).")


def _needs_configuration(check: Callable[[Facts, Config], Result]) -> Callable[[Facts], Result]:
    """Make a check that is not made while the configuration is wrong."""

    def judged(facts: Facts) -> Result:
        if isinstance(facts.configuration, Unknown):
            return _NO_CONFIGURATION
        return check(facts, facts.configuration.config)

    return judged


@_needs_configuration
def _disk(facts: Facts, config: Config) -> Result:
    if isinstance(facts.room, Unknown):
        return bad(facts.room.why, "Make the state folder, readable and writable for the runner's user; see `state`.")
    seen = f"The disk of {config.state} has {facts.room}."
    fix = "Make room there, or keep less."
    match judge(Disk.WELL, facts.room, Marks(low=int(config.disk.low), full=int(config.disk.full))):
        case Disk.FULL:
            return bad(f"{seen} No job is taken.", fix)
        case Disk.LOW:
            return bad(f"{seen} No job is started.", fix)
        case Disk.WELL:
            return good(seen)


@_needs_configuration
def _store(facts: Facts, config: Config) -> Result:
    if facts.store is None:
        return unchecked("There is no database yet; the first start makes it.")
    if isinstance(facts.store, Unknown):
        return bad(facts.store.why, f"Run this as the user of the service, on {config.state}; else restore a backup.")
    if facts.store.complaint:
        return bad(
            f"The database is damaged: {facts.store.complaint[:200]}.",
            "Stop the service, keep a copy of the state folder, and restore a backup or start with an empty one.",
        )
    seen = f"The database is whole, its tables are of version {facts.store.version}"
    if facts.store.version > facts.store.known:
        return bad(f"{seen}, and this runner knows {facts.store.known}.", "Start the newer version that wrote it.")
    return good(f"{seen}{'' if facts.store.version == facts.store.known else '; the next start brings it up to date'}.")


def _clock(facts: Facts) -> Result:
    if isinstance(facts.clock, Unknown):
        return unchecked(facts.clock.why)
    fix = "Set the clock, and have it kept right (chrony, systemd-timesyncd)."
    if facts.clock.now < PAST:
        return bad("The clock is years behind: certificates and tokens cannot be judged by it.", fix)
    latest = facts.store.latest if facts.store and not isinstance(facts.store, Unknown) else 0.0
    if latest > facts.clock.now + AHEAD:
        ahead = latest - facts.clock.now
        return bad(f"The clock is {ahead:.0f} s behind the last event in the database.", fix)
    if not facts.clock.synchronised:
        return dubious("Nothing keeps the clock right, says the kernel: time limits and retention go by it.", fix)
    return good("The clock is kept right, and not behind what was written down.")


@_needs_configuration
def _keeper(facts: Facts, config: Config) -> Result:
    if facts.keeper is None:
        return unchecked("Sandboxes are known by their addresses; no keeper is asked.")
    if isinstance(facts.keeper, Unknown):
        return bad(facts.keeper.why, f"The setting sandboxes.keeper is {config.sandboxes.keeper}.")
    trouble = facts.keeper.trouble or f"The keeper takes its host for {facts.keeper.host}."
    if facts.keeper.host is HostState.WEDGED:
        return bad(trouble, "Look at the host: `sandbox doctor`, where the keeper runs.")
    if facts.keeper.trouble or facts.keeper.host is not HostState.WELL:
        return dubious(trouble, _RECREATED)
    return good("The keeper answers, and nothing fails.")


def _pool(facts: Facts) -> Result:
    if facts.keeper is None or isinstance(facts.keeper, Unknown):
        return unchecked("There is no keeper that answers.")
    ready, made = facts.keeper.ready, facts.keeper.made
    if not made:
        return bad("There is no sandbox.", _RECREATED)
    seen = ", ".join(f"{ready.get(name, 0)} of {made[name]} in profile {name}" for name in sorted(made))
    if not any(ready.values()):
        return dubious(f"No sandbox is ready ({seen}): they are at work, or being made. Jobs wait.", _RECREATED)
    return good(f"Sandboxes that are ready: {seen}.")


@_needs_configuration
def _api(facts: Facts, config: Config) -> Result:
    if isinstance(facts.api, Unknown):
        return bad(facts.api.why, f"Start `runner serve`. The setting api.listen is {config.api.listen}.")
    if not facts.api.ready:
        return bad(f"The service answers: {facts.api.detail}", "Wait for it, or look at its log.")
    return good("The service answers, and takes jobs.")


def _canary(facts: Facts) -> Result:
    match facts.canary:
        case Unknown(why):
            return unchecked(why)
        case canary if canary.succeeded:
            return good(f"A job came to its end in {canary.seconds:.1f} s.")
        case canary:
            return bad(
                f"After {canary.seconds:.0f} s: {canary.message}",
                "`runner ls` has the job, `runner logs` what it said; mostly it is a check above.",
            )


def _host(facts: Facts) -> Result:
    if isinstance(facts.host, Unknown):
        return unchecked(f"{facts.host.why} Where the keeper runs, `sandbox doctor` makes its checks.")
    return good(f"`sandbox doctor` made {len(facts.host)} checks, which follow.")


CHECKS: Final[tuple[Check[Facts], ...]] = (
    Check("configuration", _configuration, PAGE),
    Check("state-disk", _disk, PAGE),
    Check("store", _store, PAGE),
    Check("clock", _clock, PAGE),
    Check("keeper", _keeper, PAGE),
    Check("pool", _pool, PAGE),
    Check("api", _api, PAGE),
    Check("canary-job", _canary, PAGE),
    Check("host", _host, PAGE),
)
"""In order: repair the first one that fails first."""

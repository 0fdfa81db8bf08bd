"""The pages of the manual that are made from tables in the source: `python -m tests.monitoring.pages` writes them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import cast

from prometheus_client import CollectorRegistry

from runner.metrics import Metrics
from runner.service.health import Reason
from runner.store.states import JobState
from sandbox.config import KeeperConfig
from sandbox.daemons import Daemons
from sandbox.engine import Engine
from sandbox.keeper.builder import Builder
from sandbox.keeper.gauges import Gauges
from sandbox.keeper.guard import Guard
from sandbox.keeper.metrics import Metrics as KeeperMetrics
from sandbox.keeper.records import Records
from sandbox.keeper.stock import Stock
from sandbox.keeper.storage import Storage
from sandbox.keeper.watch import HostWatch
from sandbox.profile import Profile
from tests.monitoring.source import ROOT, members

LOGS = Path("docs/logs.md")
METRICS = Path("docs/metrics.md")

_MARK = "<!-- made from the source: python -m tests.monitoring.pages -->\n"


def logs_page() -> str:
    """`docs/logs.md`: what is above its mark by hand, and the tables of actions."""
    return _page(
        LOGS,
        {
            "The runner's actions": _table(("action", "means"), _lines("runner/logs.py")),
            "The keeper's actions": _table(("action", "means"), _lines("sandbox/logs.py")),
        },
    )


def metrics_page() -> str:
    """`docs/metrics.md`: what is above its mark by hand, and a line for each metric."""
    head = ("metric", "type", "labels", "means")
    return _page(
        METRICS,
        {
            "The runner's": _table(head, _families(_of_runner())),
            "The keeper's": _table(head, _families(_of_keeper())),
        },
    )


def _of_runner() -> CollectorRegistry:
    metrics = Metrics()
    metrics.gitlab_stage.labels("build_script", "done")
    metrics.keeper_answered(True)
    metrics.show(dict.fromkeys(JobState, 0), 0.0, (0, 0), (0, 0), dict.fromkeys(Reason, False))
    return metrics._registry


def _of_keeper() -> CollectorRegistry:
    config = KeeperConfig(profiles={"default": Profile()})
    metrics = KeeperMetrics(config.profiles)
    stock = Stock(config.profiles, cast(Records, SimpleNamespace(keep=None)))
    storage = Storage(config, stock, cast(Engine, None), cast(Builder, None))
    guard = cast(Guard, SimpleNamespace(counters=dict))
    Gauges(metrics, stock, guard, HostWatch(metrics), Daemons(lambda: False), storage)
    return metrics.registry


def _families(registry: CollectorRegistry) -> list[tuple[str, ...]]:
    lines = []
    for family in registry.collect():
        if "process_" in family.name:  # the library's own, which come and go with its releases
            continue
        sampled = {label for sample in family.samples for label in sample.labels if label != "le"}
        labels = getattr(family, "_labelnames", None) or sorted(sampled)
        name = f"{family.name}_total" if family.type == "counter" else family.name
        shown = ", ".join(f"`{label}`" for label in labels)
        lines.append((f"`{name}`", family.type, shown, family.documentation))
    return sorted(lines)


def _lines(module: str) -> Iterable[tuple[str, str]]:
    return [(f"`{value}`", meaning) for value, meaning in members(module, "Action").items()]


def _page(path: Path, tables: Mapping[str, str]) -> str:
    above, mark, _ = (ROOT / path).read_text().partition(_MARK)
    assert mark, f"{path} has lost the line {_MARK}"
    return above + mark + "".join(f"\n## {title}\n\n{table}" for title, table in tables.items())


def _table(head: tuple[str, ...], lines: Iterable[tuple[str, ...]]) -> str:
    rows = [head, ("---",) * len(head), *lines]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


if __name__ == "__main__":
    (ROOT / LOGS).write_text(logs_page())
    (ROOT / METRICS).write_text(metrics_page())

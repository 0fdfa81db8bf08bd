"""The pages that are made from the models of the settings. `python -m tests.configuration` writes them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from runner.config.load import settings
from runner.config.model import Config
from sandbox import config as keeper
from sandbox.settings.model import Setting, written

ROOT: Final = Path(__file__).parents[1]
PAGE: Final = ROOT / "docs" / "configuration.md"
EXAMPLE: Final = ROOT / "examples" / "runner.toml"
_WIDTH: Final = 110


def page() -> str:
    """docs/configuration.md with its tables as they are now: what people wrote around them stays."""
    text = PAGE.read_text()
    for name, table in (("runner", _runner()), ("keeper", _keeper())):
        begin, end = f"<!-- settings of the {name}: generated -->", "<!-- end -->"
        text = re.sub(f"{begin}\n.*?{end}", lambda _: f"{begin}\n{table}{end}", text, flags=re.DOTALL)  # noqa: B023
    return text


def example() -> str:
    """examples/runner.toml: every setting, commented out, with its default or a value that could be given."""
    head = [
        "# The settings of `runner serve`. All here is the default, or an example where there is none: uncomment",
        "# what should differ. Variables and options win over this file: docs/configuration.md.",
    ]
    return "\n".join([*head, *_example_lines()]) + "\n"


def _example_lines() -> Iterator[str]:
    for section, group in itertools.groupby(settings(), lambda one: one.key[:-1]):
        if section:
            yield ""
            yield f"[{'.'.join(section)}]"
        for setting in group:
            yield ""
            yield from _wrapped(setting.text)
            given = setting.default if written(setting.default) not in ("", "[]") else setting.example
            yield f"# {setting.key[-1]}{'_file' if setting.secret else ''} = {written(given)}"


def _wrapped(text: str) -> Iterator[str]:
    line = "#"
    for word in text.split():
        if len(line) + len(word) > _WIDTH:
            yield line
            line = "#"
        line += f" {word}"
    yield line


def _runner() -> str:
    return "".join(_section(setting_group) for setting_group in _grouped(settings()))


def _section(group: list[Setting]) -> str:
    title = ".".join(group[0].key[:-1])
    intro = f"\n### [{title}]\n\n{_about(title)}\n" if title else ""
    return intro + "".join(map(_entry, group))


def _about(title: str) -> str:
    section = Config.model_fields[title].annotation
    assert section is not None
    return (section.__doc__ or "").strip()


def _keeper() -> str:
    return "".join(map(_entry, keeper.settings()))


def _names(setting: Setting) -> Iterator[str]:
    """What says the same beside the key in the file: variables, and the option."""
    variables = [setting.variable, f"{setting.variable}_FILE" if setting.secret else "", setting.about.also]
    yield ", ".join(f"`{name}`" for name in variables if name)
    yield f"`{setting.option}`" if setting.option else ""
    yield f"also `{setting.name}_file`" if setting.secret else ""


def _entry(setting: Setting) -> str:
    default = written(setting.default)
    facts = [f"default `{default}`" if default else "no default", *_names(setting), "live" if setting.live else ""]
    return f"\n**`{setting.name}`** · {' · '.join(filter(None, facts))}\\\n{setting.text}\n"


def _grouped(all_settings: Iterable[Setting]) -> Iterator[list[Setting]]:
    return (list(group) for _, group in itertools.groupby(all_settings, lambda one: one.key[:-1]))


if __name__ == "__main__":
    PAGE.write_text(page())
    EXAMPLE.write_text(example())

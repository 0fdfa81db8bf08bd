"""Stage scripts of the same shape as those that gitlab-runner generates (its `shells/bash.go`, `shells/abstract.go`).

Kept: the header, `$'…'` quoting, the one `eval`, every variable exported in clear at each stage, file variables, the
GITLAB_ENV file, and which programs a stage needs. Left out: colours, sections, and settings that no test of ours uses.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Final

from tests.gitlab.job import Folders, Response, Variables

_SAFE: Final = re.compile(rb"[\w@%+=:,./-]+")
_ESCAPES: Final = {ord("\n"): "\\n", ord("\t"): "\\t", ord("\r"): "\\r", ord("'"): "\\'", ord("\\"): "\\\\"}


def quote(text: str) -> str:
    """As gitlab-runner quotes: `$'…'`, which is bash and not POSIX."""
    data = text.encode(errors="surrogateescape")
    if not data:
        return "''"
    if _SAFE.fullmatch(data):
        return text
    plain = "".join(_ESCAPES.get(byte) or (chr(byte) if 32 <= byte < 127 else f"\\x{byte:02x}") for byte in data)
    return f"$'{plain}'"


def whole(body: str, *, piped: bool = False) -> bytes:
    """The file that run_exec is given; `piped` as up to 19.0, with a trap that does not do what it was meant to do."""
    trap = "trap exit 1 TERM" if piped else "trap 'exit 1' TERM"
    run = f": | eval {quote(body)}" if piped else f"({trap}; eval {quote(body)}) < /dev/null"
    return (
        f"#!/usr/bin/env bash\n\n{trap}\n\n"
        'case "$(set -o)" in *pipefail*) set -o pipefail;; esac; set -o errexit\nset +o noclobber\n'
        f"{run}\nexit 0\n"
    ).encode()


@dataclass
class Scripts:
    """What each stage of one job does. A stage without a script is not run."""

    job: Response
    folders: Folders
    variables: Variables
    host: str = "simulated-manager"
    piped: bool = False
    """As `whole` has it."""
    object_store: str = ""
    """Where caches go beside their files: an address that `[runners.cache]` comes to."""
    failed: bool = field(default=False)

    def script(self, stage: str) -> bytes | None:
        """The script of a stage, or None when gitlab-runner would not call run_exec for it."""
        lines = self._lines(stage)
        return None if lines is None else whole("\n".join([*self._prelude(stage), *lines, ""]), piped=self.piped)

    def _lines(self, stage: str) -> list[str] | None:
        known = {
            "prepare_script": self._prepare,
            "get_sources": self._get_sources,
            "clear_worktree": lambda: [f"cd {quote(self.folders.build)}", "git rm -rf . || true", "git clean -ffdx"],
            "restore_cache": self._restore_cache,
            "download_artifacts": self._download_artifacts,
            "build_script": lambda: self._user("script"),
            "after_script": lambda: self._user("after_script"),
            "archive_cache": lambda: self._archive_cache("on_success"),
            "archive_cache_on_failure": lambda: self._archive_cache("on_failure"),
            "upload_artifacts_on_success": lambda: self._upload("on_success"),
            "upload_artifacts_on_failure": lambda: self._upload("on_failure"),
            "cleanup_file_variables": self._cleanup,
        }
        return known[stage]() if stage in known else self._user(stage.removeprefix("step_"))

    def _prelude(self, stage: str) -> list[str]:
        """The variables, all of them, in clear, at every stage but those that only tidy."""
        if stage in {"prepare_script", "cleanup_file_variables"}:
            return []
        lines = [self._export(variable) for variable in self.variables.values()]
        env_file = self.folders.env_file
        return [
            *lines,
            f"export GITLAB_ENV={quote(env_file)}",
            f'mkdir -p "{self.folders.tmp}"',
            f'touch "{env_file}"',
            f'while read -r line; do export "$line" || true; done < "{env_file}"',
        ]

    def _export(self, variable: dict[str, Any]) -> str:
        key, value = quote(variable["key"]), quote(variable["value"])
        if not variable["file"]:
            return f"export {key}={value}"
        file = f"{self.folders.tmp}/{variable['key']}"
        return f'mkdir -p "{self.folders.tmp}"\nprintf \'%s\' {value} > "{file}"\nexport {key}="{file}"'

    def _prepare(self) -> list[str]:
        tmp = self.folders.tmp
        return [f'echo "Running on $(hostname) via {self.host}..."', f"rm -f {tmp}/gitlab_runner_env {tmp}/masking.db"]

    def _hook(self, name: str) -> list[str]:
        return [line for hook in self.job["hooks"] or () if hook["name"] == name for line in hook["script"]]

    def _get_sources(self) -> list[str]:
        if self.variables.get("GIT_STRATEGY", "fetch") == "none":
            checkout = ["echo 'Skipping Git repository setup'", f"mkdir -p {quote(self.folders.build)}"]
        else:
            checkout = [*self._fetch(), *self._lfs(), *self._submodules()]
        before, after = self._hook("pre_get_sources_script"), self._hook("post_get_sources_script")
        return [*before, *checkout, *after]

    def _fetch(self) -> list[str]:
        git, build, template = self.job["git_info"], quote(self.folders.build), f"{self.folders.tmp}/git-template"
        depth, refspecs = git["depth"], " ".join(quote(spec) for spec in git["refspecs"])
        url = quote(git["repo_url"])
        return [
            f"echo 'Fetching changes with git depth set to {depth}...'",
            f'mkdir -p "{template}"',
            f'git config -f "{template}/config" fetch.recurseSubmodules false',
            f'git init {build} --template "{template}" --quiet',
            f"cd {build}",
            *(f"rm -f .git/{name}" for name in ("index.lock", "shallow.lock", "HEAD.lock", "config.lock")),
            f"if git remote add origin {url} >/dev/null 2>&1; then",
            "  echo 'Created fresh repository.'",
            f"else\n  git remote set-url origin {url}\nfi",
            f"git fetch origin --no-recurse-submodules {refspecs} --depth {depth} --prune --quiet",
            f"echo 'Checking out {git['sha'][:8]} as detached HEAD (ref is {git['ref']})...'",
            f"git -c submodule.recurse=false checkout -f -q --detach {quote(git['sha'])}",
            "git clean -ffdx",
        ]

    def _lfs(self) -> list[str]:
        return ["if git lfs version >/dev/null 2>&1; then", "  git lfs pull", "  echo", "fi"]

    def _submodules(self) -> list[str]:
        strategy = self.variables.get("GIT_SUBMODULE_STRATEGY", "none")
        if strategy == "none":
            return ["echo 'Skipping Git submodules setup'"]
        recursive = " --recursive" if strategy == "recursive" else ""
        return [
            "git submodule init",
            f"git submodule sync{recursive}",
            f"git submodule update --init{recursive} --force",
            f"git submodule foreach{recursive} 'git clean -ffdx'",
            f"if git lfs version >/dev/null 2>&1; then git submodule foreach{recursive} 'git lfs pull'; fi",
        ]

    def _user(self, name: str) -> list[str] | None:
        scripts = [step["script"] for step in self.job["steps"] or () if step["name"] == name and step["script"]]
        if not scripts:
            return None
        return [
            f"cd {quote(self.folders.build)}",
            *(line for command in scripts[0] for line in (f"echo {quote('$ ' + _shown(command))}", command)),
        ]

    def _with_helper(self, what: str, lines: list[str]) -> list[str]:
        return [
            f"cd {quote(self.folders.build)}",
            "if gitlab-runner --version >/dev/null 2>/dev/null; then",
            *(f"  {line}" for line in lines),
            f"else\n  echo 'Missing gitlab-runner. {what} is disabled.'\nfi",
        ]

    def _restore_cache(self) -> list[str] | None:
        return self._cache("Extracting cache", "cache-extractor", "pull", ("Checking cache for", "extracted"))

    def _archive_cache(self, when: str) -> list[str] | None:
        return self._cache("Creating cache", "cache-archiver", "push", ("Creating cache", "created"), when)

    def _cache(
        self, what: str, program: str, policy: str, words: tuple[str, str], when: str | None = None
    ) -> list[str] | None:
        lines = []
        for cache in self.job["cache"] or ():
            if policy not in cache.get("policy", "pull-push") or (when and not _due(cache, when)):
                continue
            paths = "".join(f" --path {quote(path)}" for path in cache["paths"]) if policy == "push" else ""
            file = quote(self.folders.cache_file(cache["key"]))
            address = f"{self.object_store}/{cache['key']}?signed"
            store = f" --url {quote(address)}" if self.object_store else ""
            call = f"gitlab-runner {program} --file {file} --timeout 10{store}{paths}"
            failed = f"echo 'Failed to {words[1].removesuffix('ed')} cache'"
            lines += [f"echo '{words[0]} {cache['key']}...'",
                      f"if {call}; then echo 'Successfully {words[1]} cache'; else {failed}; fi"]  # fmt: skip
        return self._with_helper(what, lines) if lines else None

    def _download_artifacts(self) -> list[str] | None:
        with_files = [dependency for dependency in self.job["dependencies"] or () if dependency.get("artifacts_file")]
        calls = [
            f"echo 'Downloading artifacts for {d['name']} ({d['id']})...'\n"
            f"gitlab-runner artifacts-downloader --url http://gitlab.test --token {quote(d['token'])} --id {d['id']}"
            for d in with_files
        ]
        return self._with_helper("Artifacts downloading", calls) if calls else None

    def _upload(self, when: str) -> list[str] | None:
        calls = [
            "echo 'Uploading artifacts...'\n"
            f"gitlab-runner artifacts-uploader --url http://gitlab.test --token {quote(self.job['token'])} "
            f"--id {self.job['id']}" + "".join(f" --path {quote(path)}" for path in artifact["paths"])
            for artifact in self.job["artifacts"] or ()
            if _due(artifact, when)
        ]
        return self._with_helper("Uploading artifacts", calls) if calls else None

    def _cleanup(self) -> list[str]:
        files = [f"{self.folders.tmp}/{variable['key']}" for variable in self.variables.values() if variable["file"]]
        template = f"{self.folders.tmp}/git-template"
        return [*(f"rm -f {quote(file)}" for file in (*files, self.folders.env_file)), f"rm -r -f {quote(template)}"]


def _due(thing: dict[str, Any], when: str) -> bool:
    return thing.get("when", "on_success") in {when, "always"}


def _shown(command: str) -> str:
    first, newline, _ = command.partition("\n")
    return f"{first} # collapsed multi-line command" if newline else first

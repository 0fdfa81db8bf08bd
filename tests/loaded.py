"""Loaded by the process that `programs` forks from: what runner and keeper load at their own start."""

from importlib import import_module

from runner import lean as runner_lean
from sandbox import lean as sandbox_lean
from tests.crash import clock

clock.install()  # before anything keeps `time.time` for itself
runner_lean.do_without()
sandbox_lean.do_without()
for _name in (
    "runner.cli", "runner.serve", "sandbox.cli", "sandbox.keeper.process", "paramiko",
    "pytest",  # each fork has the main program's script loaded, which imports that
):  # fmt: skip
    import_module(_name)

"""The modules that every command of ours loads, for the process that `programs` forks from."""

from importlib import import_module

from runner import lean as runner_lean
from sandbox import lean as sandbox_lean
from tests.crash import clock

clock.install()  # before anything keeps `time.time` for itself
runner_lean.do_without()
sandbox_lean.do_without()
with sandbox_lean.loading():
    for _name in (
        "runner.serve", "runner.run", "sandbox.keeper.process", "sandbox.adhoc.machine", "sandbox.engine", "paramiko",
        "jinja2", "uvicorn.lifespan.off", "uvicorn.protocols.http.auto", "uvicorn.protocols.websockets.auto",
        "pytest",  # each fork has the main program's script loaded, which imports that
    ):  # fmt: skip
        import_module(_name)
    for _name in ("runner.cli", "sandbox.cli"):
        import_module(_name).app()

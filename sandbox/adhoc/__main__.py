"""The reaper as a process: `python -m sandbox.adhoc FOLDER`."""

from sandbox import lean

lean.do_without()

from sandbox.adhoc.reaper import main  # noqa: E402 - after the modules that it does without

main()

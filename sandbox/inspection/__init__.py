"""Finds damage from outside: reads on the host what a job left in a sandbox, and judges it against `ready`.

`inspector.record` runs at `ready`, before any job could forge the evidence; `inspector.inspect` runs while the
container is frozen. Gathering (`gather`, a confined child that is killed at its deadline) and judging (`judge`, without
I/O) are separate; `places` says what each place decides. This file imports nothing, because the child imports it.
"""

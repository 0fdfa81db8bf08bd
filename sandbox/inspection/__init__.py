"""Damage, found from outside: what a job left in a sandbox is read on the host's side and judged against `ready`.

`inspector.record` at `ready`, before any job could forge it; `inspector.inspect` while the container is frozen.
Gathering (`gather`, a confined child that is killed when its time is over) and judging (`judge`, without I/O) are
apart; `places` says what each place decides. This file imports nothing, because the child imports it.
"""

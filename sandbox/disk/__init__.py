"""The disk limits: a watcher, since sysbox honours none of the engine's (docs/limits.md).

`watch` decides, without I/O, which sandboxes are measured, frozen and condemned. `watcher` looks at the host's file
systems and does what `watch` says; `measure` is the child that adds up what one sandbox takes. This file imports
nothing, because the child imports it.
"""

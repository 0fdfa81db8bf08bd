"""Evaluation on hosts without sysbox: userns-runc, and a private engine that uses it.

Nothing here runs unless somebody asks for it (`sandbox evaluation …`, `make demo`, `make test`).
"""

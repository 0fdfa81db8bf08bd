"""Throw-away sandboxes that a person or a program makes for itself, without a keeper: the library and the commands.

Only docstring: `sandbox` itself offers the public names, and imports them when they are asked for.
"""

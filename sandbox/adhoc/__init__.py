"""Throw-away sandboxes that a person or a program makes for itself, without a keeper: the library and the commands.

The public names are those of the package `sandbox` itself.
"""

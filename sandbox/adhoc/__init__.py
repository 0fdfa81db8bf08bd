"""Throw-away sandboxes that people and programs make for themselves, without a keeper: the library and the commands.

The public names are those of the package `sandbox` itself.
"""

"""Builds the sandbox image, and checks images that were built on it."""

"""Prints how much room the file system of a folder has. Runs as a child (`sandbox.child`): a dead disk can hang it."""

from __future__ import annotations

import json
import os
import sys


def main() -> int:
    """Read the folder from stdin; print the total and generally free bytes and inodes, and the device."""
    folder = sys.stdin.read()
    found = os.statvfs(folder)
    size = found.f_blocks * found.f_frsize, found.f_files
    free = found.f_bavail * found.f_frsize, found.f_favail
    json.dump({"size": size, "free": free, "device": os.stat(folder).st_dev}, sys.stdout)  # noqa: PTH116 - as above
    return 0

"""Says how much room the file system of a folder has. Runs as a child (`sandbox.child`): a dead disk can hang it."""

from __future__ import annotations

import json
import os
import sys


def main() -> int:
    """The folder is the question; the answer is bytes and inodes, in all and free for everybody."""
    found = os.statvfs(sys.stdin.read())
    size = found.f_blocks * found.f_frsize, found.f_files
    free = found.f_bavail * found.f_frsize, found.f_favail
    json.dump({"size": size, "free": free}, sys.stdout)
    return 0

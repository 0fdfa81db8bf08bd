"""A service raises the limit of open files that it starts with."""

import subprocess
import sys

LOW = """
import resource
from sandbox import open_files
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
open_files.raise_limit()
print(resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard))
"""


def test_what_the_host_grants_is_taken() -> None:
    done = subprocess.run([sys.executable, "-c", LOW], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "True\n"

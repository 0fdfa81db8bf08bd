"""The quickest way to start a hook: `python3 -I -S …/runner/gitlab/hook.py run SCRIPT STAGE`.

Python reads all of a program anew at each start, but keeps what a module comes to: so the program is these few lines,
and the rest is in `client`, which is found without the packages around it. And it takes milliseconds to take itself
apart, which nobody needs.
"""

import posix
import sys

if __name__ == "__main__":
    sys.path.insert(0, __file__.rpartition("/")[0])
    import client  # type: ignore[import-not-found]

    posix._exit(client.main(sys.argv[1:]))  # noqa: SLF001 - as in `os`

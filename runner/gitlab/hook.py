"""The quickest way to start a hook: `python3 -I -S …/runner/gitlab/hook.py run SCRIPT STAGE`.

Python compiles a program anew at each start, but keeps compiled modules. So the program is these few lines, and the
rest is in `client`, which is imported without the packages around it. `posix._exit` saves the milliseconds that Python
takes to shut down.
"""

import posix
import sys

if __name__ == "__main__":
    try:
        sys.path.insert(0, __file__.rpartition("/")[0])
        import client  # type: ignore[import-not-found]

        code = client.main(sys.argv[1:])
    except BaseException as error:  # noqa: BLE001 - Python's own exit code 1 would be the job's failure
        posix.write(2, f"runner: The hook cannot start ({type(error).__name__}: {error}). Please report it.\n".encode())
        code = int(posix.environ.get(b"SYSTEM_FAILURE_EXIT_CODE") or 2)
    posix._exit(code)  # noqa: SLF001 - as in `os`

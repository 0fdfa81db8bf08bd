"""Every measurement in one run, on a sandbox made for it: `make bench`."""

from __future__ import annotations

import tempfile
from pathlib import Path

from bench import claim, gitlab_stage, inspection, jobs, log_throughput, recreate, sandbox_run, start_latency, stream


def main() -> None:
    """Measure and print."""
    profile = recreate.profile_of_environment()
    with recreate.Maker(profile).built() as sandbox, tempfile.TemporaryDirectory() as folder:
        host_key, client_key = Path(folder, "host.pub"), Path(folder, "client")
        host_key.write_text(sandbox.identity.host.public)
        client_key.touch(mode=0o600)
        client_key.write_text(sandbox.identity.client.private)
        options = ["--host", sandbox.address, "--host-key", str(host_key), "--client-key", str(client_key)]
        for bench in (start_latency, log_throughput, gitlab_stage):
            bench.main(options)
        inspection.report(sandbox, rounds=10)
    recreate.report(profile, rounds=5)
    stream.report(jobs=40)
    jobs.report(200)
    sandbox_run.report(profile, rounds=5)
    claim.main()


if __name__ == "__main__":
    main()

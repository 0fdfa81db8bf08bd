"""The base of our image: Debian's own image from a registry, or one made from Debian's archive."""

import os
import tempfile
from pathlib import Path

from sandbox.evaluation import engine_api, packages
from sandbox.evaluation.errors import BaseImageUnavailable, CommandFailed, EvaluationError
from sandbox.evaluation.host import Say, run

SUITE = "trixie"
OFFICIAL = ("debian", "trixie-slim")
LOCAL = ("sandbox-base", SUITE)
REFERENCE = ":".join(LOCAL)

PULL_SECONDS = 20
BOOTSTRAP_SECONDS = 600.0
MIRROR = "http://deb.debian.org/debian"
SECURITY_MIRROR = "http://deb.debian.org/debian-security"
KEYRINGS = Path("/usr/share/keyrings")
# Left out of Debian's own slim images, and of packages installed later.
SLIM = (
    *(f"--dpkgopt=path-exclude=/usr/share/{unread}/*" for unread in ("doc", "groff", "info", "linda", "locale", "man")),
    "--dpkgopt=path-include=/usr/share/doc/*/copyright",
    '--customize-hook=rm -rf "$1"/var/lib/apt/lists/* "$1"/var/cache/apt/*.bin',
)


def ensure(url: str | None, say: Say) -> str:
    """Return the base image's reference on the engine at `url`, `sandbox-base:trixie`; make or pull it if missing."""
    if engine_api.has_image(url, REFERENCE):
        return REFERENCE
    official = ":".join(OFFICIAL)
    if not engine_api.has_image(url, official):
        say(f"pulling {official}")
        try:
            engine_api.pull(url, *OFFICIAL, PULL_SECONDS)
        except EvaluationError as error:
            say(f"no image registry gave it ({_first_line(error)}); making a base image from Debian's archive instead")
            _bootstrap(url, say)
            return REFERENCE
    engine_api.tag(url, official, *LOCAL)
    return REFERENCE


def sources(mirror: str, security_mirror: str) -> list[str]:
    """Return Debian's archives in apt's one-line format."""
    return [
        f"deb {mirror} {SUITE} main",
        f"deb {mirror} {SUITE}-updates main",
        f"deb {security_mirror} {SUITE}-security main",
    ]


def _bootstrap(url: str | None, say: Say) -> None:
    packages.ensure(packages.BASE_IMAGE, say)
    lines = sources(os.environ.get("DEBIAN_MIRROR", MIRROR), os.environ.get("DEBIAN_SECURITY_MIRROR", SECURITY_MIRROR))
    with tempfile.TemporaryDirectory(prefix="sandbox-base-") as folder:
        archive = Path(folder, "base.tar")
        say(f"making a minimal Debian {SUITE} with mmdebstrap; this takes half a minute")
        try:
            run(
                "mmdebstrap",
                "--variant=minbase",
                "--include=ca-certificates",
                f"--keyring={KEYRINGS}",
                *SLIM,
                SUITE,
                str(archive),
                *lines,
                deadline=BOOTSTRAP_SECONDS,
            )
        except CommandFailed as error:
            raise BaseImageUnavailable(
                f"No image registry answers, and Debian's archive gave no base image either. {error} "
                f"Load an image by hand and tag it {REFERENCE}, or name a mirror in DEBIAN_MIRROR."
            ) from error
        say(f"importing it as {REFERENCE}")
        engine_api.import_image(url, archive, *LOCAL, command="bash")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["no reason given"])[0][:200]

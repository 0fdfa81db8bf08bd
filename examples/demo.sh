#!/bin/bash
# The main job, shown: a script that builds an image and runs a container in its sandbox; a script that wrecks its
# sandbox; and the next script, which never notices. Run by `make demo`, which prepares engine, runtime and images.
set -euo pipefail
cd "$(dirname "$0")/.."

# Names of its own, so that an installation on this host is left alone.
export COMPOSE_PROJECT_NAME=sandbox-demo SANDBOX_RUN=/run/sandbox-demo RUNNER_PORT=${RUNNER_PORT:-18080}
export SANDBOX_WARM=1 SANDBOX_KEEPER=/run/sandbox-demo/keeper/socket

say() { printf '\n== %s\n' "$*"; }
compose() { .venv/bin/docker-compose --progress quiet "$@"; }
run() { # SCRIPT, and the exit code that it is to end with
    local code=0
    .venv/bin/runner run "examples/$1" || code=$?
    echo "-> exit code $code"
    [ "$code" = "$2" ] || { say "it was to end with $2: something is wrong here"; exit 1; }
}
clean_up() {
    say "stopping: docker compose down -v removes everything the demo made"
    compose down --volumes
    rm -rf "$SANDBOX_RUN"
}

say "docker compose up: a keeper, a runner and one warm sandbox (runtime $SANDBOX_RUNTIME)"
trap clean_up EXIT
if ! compose up --detach --no-build --wait --wait-timeout 180; then
    say "it did not come up; the keeper's last words:"
    compose logs --no-log-prefix --tail 20 keeper
    exit 1
fi

say "1. a script builds an image and runs a container inside its sandbox"
run build-and-run.sh 0

say "2. a script wrecks its sandbox"
run wreck.sh 75

say "3. the next script never notices: it gets a recreated sandbox"
run hello.sh 0

say "what the keeper saw"
.venv/bin/sandbox ls

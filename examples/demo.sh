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
run() {
    local code=0
    .venv/bin/runner run "examples/$1" || code=$?
    echo "-> exit code $code"
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
run build-and-run.sh

say "2. a script wrecks its sandbox"
run wreck.sh

say "3. the next script never notices: it gets a recreated sandbox"
run hello.sh

say "what the keeper saw"
.venv/bin/sandbox ls

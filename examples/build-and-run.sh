#!/bin/bash
# Builds an image and runs a container, as CI jobs do. Needs no registry: the image is made from what is here.
set -euo pipefail

mkdir context
cp "$(command -v busybox)" context/
cat > context/Dockerfile <<'DOCKERFILE'
FROM scratch
COPY busybox /bin/busybox
RUN ["/bin/busybox", "--install", "-s", "/bin"]
ENTRYPOINT ["/bin/sh", "-c"]
DOCKERFILE

docker build --quiet --tag example context
docker run --rm example 'echo "Hello from a container in the sandbox: $(uname -sr), uid $(id -u)"'

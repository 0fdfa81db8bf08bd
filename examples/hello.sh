echo "Hello from $(hostname), as $(id -un), with Docker $(docker version --format '{{.Server.Version}}')."

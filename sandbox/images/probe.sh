# Runs in a sandbox as its user, over SSH: tells what the contract of an image asks for, one `name<tab>value` a line.
tell() {
    printf '%s\t%s\n' "$1" "$(printf '%s' "$2" | tr -s '\r\n\t' ' ')"
}

tell begin now
tell account "$(id -un) $(id -u) $(pwd)"
tell groups "$(id -Gn)"
tell sudo "$(sudo -n id -u 2>&1)"
tell python "$(python3 -I -S -c 'import sys; print(*sys.version_info[:2])' 2>&1)"
tell mount "$LIBMOUNT_FORCE_MOUNT2"
for tool in $TOOLS; do
    command -v "$tool" > /dev/null || tell missing "$tool"
done
for file in /usr/share/sandbox/images/*.tar /usr/share/sandbox/images/*.tar.*; do
    [ -f "$file" ] || continue
    sudo -n grep -qxF "$(stat -c '%n %s %Y' "$file")" /var/lib/docker/sandbox-loaded || tell unloaded "$file"
done
tell end now

#!/usr/bin/env bash
# Runs a command in namespaces of its own: its own processes, loopback, /tmp/ray, ~/.ray and /dev/shm. The heads that the
# tests start, and the `ray stop` that ends them, touch no Ray outside. Needs root, or user namespaces; where there is
# neither, the command runs as it is, and the tests skip themselves with a sentence.
set -euo pipefail
options=(--net --pid --fork --mount-proc --mount)
[ "$(id -u)" = 0 ] || options+=(--user --map-root-user)
if ! unshare "${options[@]}" true 2>/dev/null; then
    echo "Namespaces cannot be made here (unshare ${options[*]}), so these tests are skipped." >&2
    exec "$@"
fi
export LOCUS_TESTS_ISOLATED=1
exec unshare "${options[@]}" bash -c '
    set -e
    ip link set lo up
    # A machine with a network: what is not told to stay on loopback finds an address of its own (RFC 5737).
    ip address add 192.0.2.1/32 dev lo
    ip route add 8.8.8.8/32 dev lo src 192.0.2.1  # whom Ray would ask which address that is; nothing is sent
    mkdir -p /tmp/ray "$HOME/.ray"
    mount -t tmpfs none /tmp/ray
    mount -t tmpfs -o mode=700 none "$HOME/.ray"
    mount -t tmpfs -o size=4g none /dev/shm
    "$@"' -- "$@"

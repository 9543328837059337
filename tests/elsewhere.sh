#!/usr/bin/env bash
# The suite under what a test must not depend on, in random order, as a user without a name, with an empty home, in the
# C locale, at another clock, with a cluster's address and colours exported:
#
#   tests/elsewhere.sh short     a temporary folder of 6 letters, lines of 300
#   tests/elsewhere.sh long      a temporary folder of 90 letters, lines of 40
#
# More arguments go to pytest: `tests/elsewhere.sh long -p randomly -m "not fault" --randomly-seed 7 tests/configs`.
set -euo pipefail
cd "$(dirname "$0")/.."
case "${1:-}" in
  short) letters=6 columns=300 zone=Pacific/Kiritimati ;;
  long) letters=90 columns=40 zone=America/St_Johns ;;
  *) sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
shift
# A folder of exactly so many letters that does not exist: /tmp/ is five of them.
for _ in $(seq 100); do
  random=$(head -c 4096 /dev/urandom | LC_ALL=C tr -dc a-z)
  folder=/tmp/${random:0:$((letters - 5))}
  mkdir -m 700 "$folder" 2>/dev/null && break
done
home=$(mktemp -d)
trap 'rm -rf "$folder" "$home"' EXIT
# Without a user namespace (some containers) it is the present user.
other=(unshare --user --map-user=12345 --map-group=12345)
"${other[@]}" true 2>/dev/null || other=()
env -i PATH="$PATH" HOME="$home" LANG=C TZ="$zone" COLUMNS="$columns" TERM=dumb FORCE_COLOR=1 \
  RAY_ADDRESS=127.0.0.1:1 ${CI:+CI="$CI"} \
  "${other[@]}" .venv/bin/python -m pytest -p randomly -m "not fault" --basetemp "$folder" "$@"

#!/usr/bin/env bash
# Prints the pins of requirements.lock, with their hashes, that the project needs here:
#   common/pins.sh                 # the base
#   common/pins.sh deploy dev      # and extras
#   pip install --require-hashes -r <(common/pins.sh deploy) && pip install --no-deps .
set -euo pipefail
lock=$(dirname "$0")/../requirements.lock

for extra in "$@"; do
  grep -q "^# for:.* $extra\( \|$\)" "$lock" || { echo "pins: no extra is called $extra" >&2; exit 2; }
done
awk -v wanted="build base $*" '
  BEGIN { split(wanted, names, " "); for (i in names) is_wanted[names[i]] = 1 }
  /^#/ { on = 0; if ($2 == "for:") for (i = 3; i <= NF; i++) if ($i in is_wanted) on = 1; next }
  on
' "$lock"

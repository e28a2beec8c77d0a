#!/usr/bin/env bash
# Sets up and runs the tests: the fast ones, or with --all also those marked slow.
#   tests/run.sh [--all] [pytest options]
set -euo pipefail
cd "$(dirname "$0")/.."
VARGFACENET_EXTRAS="dev ${VARGFACENET_EXTRAS:-}" source common/setup_env.sh
select=(-m "not slow")
if [ "${1:-}" = --all ]; then
  select=()
  shift
fi
# a file of tests a process; most tests keep one core busy
cores=$(nproc)
exec python -m pytest -n $((cores < 4 ? cores : 4)) --dist loadfile "${select[@]}" "$@"

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
# workers share the cores: a thread that waits gives its own away at once, and what processes are
# started imports compiled modules
export GOMP_SPINCOUNT=0 PYTHONDONTWRITEBYTECODE=
# a file of tests a process; most tests keep one core busy. The slowest are listed at the end.
cores=$(nproc)
exec python -m pytest -n $((cores < 4 ? cores : 4)) --dist loadfile --no-loadscope-reorder \
  --durations 20 "${select[@]}" "$@"

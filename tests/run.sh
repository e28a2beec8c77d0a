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
# a file of tests a process; most tests keep one core busy. The slowest are listed at the end. A process
# that dies ends the run, which names its test: with another in its place pytest-xdist 3.8 waits for ever
cores=$(nproc)
exec python -m pytest -n $((cores < 4 ? cores : 4)) --dist loadfile --no-loadscope-reorder \
  --max-worker-restart 0 --durations 20 "${select[@]}" "$@"

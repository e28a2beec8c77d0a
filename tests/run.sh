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
# before OMP_NUM_THREADS is set: nproc tells that number instead of how many cores there are
cores=$(env -u OMP_NUM_THREADS nproc)
# workers share the cores: each has one thread (tests of threads have more, by tests/threads.py), one
# that waits gives its core away at once, and what processes are started imports compiled modules
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} GOMP_SPINCOUNT=0 PYTHONDONTWRITEBYTECODE=
# a file of tests a process, a process a core: with one more, tests that kill a run after a share of
# its usual time come too late. The slowest are listed at the end. A process that dies ends the run,
# which names its test: with another in its place pytest-xdist 3.8 waits for ever
exec python -m pytest -n $((cores < 4 ? cores : 4)) --dist loadfile --no-loadscope-reorder \
  --max-worker-restart 0 --durations 20 "${select[@]}" "$@"

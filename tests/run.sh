#!/usr/bin/env bash
# Sets up and runs the tests: the fast ones, or with --all also those marked slow.
#   tests/run.sh [--all] [pytest options]
set -euo pipefail
cd "$(dirname "$0")/.."
VARGFACENET_EXTRAS=dev source common/setup_env.sh
select=(-m "not slow")
if [ "${1:-}" = --all ]; then
  select=()
  shift
fi
exec python -m pytest "${select[@]}" "$@"

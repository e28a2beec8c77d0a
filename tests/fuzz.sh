#!/usr/bin/env bash
# 20,000 mutated files for every reader: tests/fuzz.sh [COUNT [SEED]]   (about an hour on 2 CPUs)
set -euo pipefail
cd "$(dirname "$0")/.."
FUZZ_COUNT=${1:-20000} FUZZ_SEED=${2:-$RANDOM} python -m pytest -q tests/fuzz

#!/usr/bin/env bash
# Kills commands at random moments and starts them again: tests/kills.sh [COUNT [SEED [JOB ...]]]
# 50 kills take about 20 minutes on 2 CPUs. Jobs: train, distill, teach, export, gallery, identify,
# ranks (two processes).
set -euo pipefail
cd "$(dirname "$0")/.."
VARGFACENET_EXTRAS=dev source common/setup_env.sh
exec python tests/kills.py "$@"

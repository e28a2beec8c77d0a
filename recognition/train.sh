#!/usr/bin/env bash
# Sets up the environment on first use, then: vargfacenet train "$@"
set -euo pipefail
source "$(dirname "$0")/../common/setup_env.sh"
exec vargfacenet train "$@"

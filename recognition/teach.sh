#!/usr/bin/env bash
# Sets up the environment on first use, then: vargfacenet teach "$@"
set -euo pipefail
source "$(dirname "$0")/../common/setup_env.sh"
exec vargfacenet teach "$@"

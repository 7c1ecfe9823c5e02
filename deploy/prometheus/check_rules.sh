#!/usr/bin/env bash
# Checks Prometheus's configuration and the alert rules, and runs the rules' tests.
set -euo pipefail
cd "$(dirname "$0")"
source ./promtool.sh
if [[ -z $promtool ]]; then
  echo "promtool is neither on the PATH nor in $cache: run deploy/prometheus/fetch_promtool.sh" >&2
  exit 1
fi
"$promtool" check config prometheus.yml
"$promtool" test rules alerts_test.yml

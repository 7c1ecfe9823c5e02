#!/usr/bin/env bash
# Test the extras whose pins conflict with the core's, each in an environment of its own under .venv/extras, side by side.
set -euo pipefail
cd "$(dirname "$0")/../.."
home=.venv/extras
export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1

test_extra() {
  local extra=$1
  deploy/locks/install_extra.sh $extra $home/$extra
  $home/$extra/bin/python -m pytest -p no:cacheprovider tests/extras/test_$extra.py
}

mkdir -p $home
trap 'kill $(jobs -p) 2>/dev/null || true' EXIT
test_extra causal &
causal=$!
test_extra feast >$home/feast.log 2>&1 &
feast=$!
status=0
wait $causal || status=$?
wait $feast || status=$?
cat $home/feast.log
exit $status

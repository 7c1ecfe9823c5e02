#!/usr/bin/env bash
# Test the extras whose pins conflict with the core's, each in an environment of its own under .venv/extras, side by side.
set -euo pipefail
cd "$(dirname "$0")/../.."
home=.venv/extras
uv=.venv/bin/uv
export UV_SYSTEM_CERTS=1 # trust whom the machine trusts, as pip can be told to
export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1

test_extra() {
  local extra=$1 lock=deploy/locks/$1.txt
  if [ ! -f $home/$extra/.done ] || [ $lock -nt $home/$extra/.done ]; then
    echo "installing the extra $extra (locked, with hashes)"
    $uv venv --quiet --clear --python .venv/bin/python $home/$extra
    $uv pip install --quiet --python $home/$extra/bin/python --no-deps --require-hashes -r $lock
    touch $home/$extra/.done
  fi
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

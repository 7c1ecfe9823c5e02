#!/usr/bin/env bash
# Test the extras whose pins conflict with the core's, each in an environment of its own under .venv/extras.
set -euo pipefail
cd "$(dirname "$0")/../.."
home=.venv/extras
uv=.venv/bin/uv
export UV_SYSTEM_CERTS=1 # trust whom the machine trusts, as pip can be told to

for extra in causal feast; do
  lock=deploy/locks/$extra.txt
  if [ ! -f $home/$extra/.done ] || [ $lock -nt $home/$extra/.done ]; then
    echo "installing the extra $extra (locked, with hashes)"
    $uv venv --quiet --clear --python .venv/bin/python $home/$extra
    $uv pip install --quiet --python $home/$extra/bin/python --no-deps --require-hashes -r $lock
    touch $home/$extra/.done
  fi
  $home/$extra/bin/python -m pytest -p no:cacheprovider tests/extras/test_$extra.py
done

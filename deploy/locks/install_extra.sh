#!/usr/bin/env bash
# Install what a lock names into an environment of its own, unless that is done: install_extra.sh NAME FOLDER
set -euo pipefail
cd "$(dirname "$0")/../.."
lock=deploy/locks/$1.txt home=$2
export UV_SYSTEM_CERTS=1 # trust whom the machine trusts, as pip can be told to
if [ ! -f "$home/.done" ] || [ "$lock" -nt "$home/.done" ]; then
  echo "installing $1 (locked, with hashes)" >&2
  .venv/bin/uv venv --quiet --clear --python .venv/bin/python "$home"
  .venv/bin/uv pip install --quiet --python "$home/bin/python" --no-deps --require-hashes -r "$lock"
  touch "$home/.done"
fi

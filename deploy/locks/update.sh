#!/usr/bin/env bash
# Resolve every lock anew: names, versions and hashes only, so that any index can serve them. Needs uv on the PATH.
set -euo pipefail
cd "$(dirname "$0")/../.."
lock() {
  local name=$1
  shift
  uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate \
    pyproject.toml --group build "$@" -o "deploy/locks/$name.txt"
}
lock service
lock local --extra local
lock dev --extra local --extra sql --extra dev
# Their pins conflict with the core's and with each other: environments of their own, with what their tests need.
lock causal deploy/locks/extras.in --extra causal
lock feast deploy/locks/extras.in --extra feast --extra local
# The peer of a benchmark, which shares nothing with the project but the records.
echo "quixstreams==3.28.*" | uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate - -o deploy/locks/quix.txt
echo uv | uv pip compile --quiet --generate-hashes --no-emit-index-url --no-header --no-annotate --universal - -o deploy/locks/uv.txt

# Sourced by other scripts: sets $promtool to the one on the PATH or in the cache folder, empty when there is none.
cache="${TWIN_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/twinstream}/promtool"
promtool="$(command -v promtool || true)"
if [[ -z $promtool && -x $cache/usr/bin/promtool ]]; then
  promtool="$cache/usr/bin/promtool"
fi

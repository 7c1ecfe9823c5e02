# Sourced: finds promtool on the PATH or in the cache folder, and says where to get it when it is in neither.
cache="${TWIN_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/twinstream}/promtool"
promtool="$(command -v promtool || true)"
if [[ -z $promtool && -x $cache/usr/bin/promtool ]]; then
  promtool="$cache/usr/bin/promtool"
fi

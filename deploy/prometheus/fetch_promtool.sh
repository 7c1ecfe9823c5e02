#!/usr/bin/env bash
# Downloads Debian's promtool to the cache folder without installing the package, which would start a server. Runs as any user.
set -euo pipefail
source "$(dirname "$0")/promtool.sh"
if [[ -n $promtool ]]; then
  exit 0
fi
if ! command -v apt-get >/dev/null || ! command -v dpkg >/dev/null; then
  echo "promtool cannot be fetched without apt-get and dpkg: install Prometheus by hand" >&2
  exit 1
fi
scratch="$(mktemp -d)"
trap 'rm -rf "$scratch"' EXIT
cd "$scratch"
apt-get download -qq prometheus 2>/dev/null || { apt-get update -qq && apt-get download -qq prometheus; }
dpkg -x prometheus_*.deb unpacked
mkdir -p "$cache/usr/bin"
mv unpacked/usr/bin/promtool "$cache/usr/bin/promtool"
echo "promtool: $cache/usr/bin/promtool"

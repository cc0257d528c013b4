#!/usr/bin/env bash
# Make sure that the browser tests find a Chromium; install Debian's where apt and the rights for it are there.
# Without one the browser tests are skipped with a clear word, except under CI=true, where that is a failure.
set -euo pipefail

find_browser() {
  local name
  for name in "${CHROMIUM:-}" chromium chromium-browser google-chrome google-chrome-stable; do
    if [ -n "$name" ] && command -v "$name"; then return 0; fi
  done
  return 1
}

install_browser() {
  local prefix=()
  command -v apt-get >/dev/null || return 1
  if [ "$(id -u)" -ne 0 ]; then
    sudo -n true 2>/dev/null || return 1
    prefix=(sudo -n)
  fi
  echo "== installing chromium for the browser tests (apt-get, once)"
  "${prefix[@]}" apt-get -qq -o DPkg::Lock::Timeout=300 update || return 1
  "${prefix[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 \
    install -y --no-install-recommends chromium >/dev/null || return 1
}

if find_browser >/dev/null; then exit 0; fi
if install_browser && find_browser >/dev/null; then exit 0; fi
if [ "${CI:-}" = true ]; then
  echo "No Chromium, and it could not be installed: the browser tests cannot run, and CI must not pass without them" >&2
  exit 1
fi
echo "== no Chromium found or installable: the browser tests will be SKIPPED; install chromium or set CHROMIUM=/path" >&2

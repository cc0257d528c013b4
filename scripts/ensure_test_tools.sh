#!/usr/bin/env bash
# Make sure that the tests find a Chromium, the emoji font that the miniature world is drawn with, and the programs of
# Redis and PostgreSQL (the tests start their own); install Debian's packages where apt and the rights for it are there.
# What stays missing is said clearly and its tests are skipped, except under CI=true, where that is a failure. With
# "no-browser" as argument, the Chromium is left out; with "font", only the font is looked after.
set -euo pipefail

font=/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf

has_browser() {
  local name
  for name in "${CHROMIUM:-}" chromium chromium-browser google-chrome google-chrome-stable; do
    if [ -n "$name" ] && command -v "$name" >/dev/null; then return 0; fi
  done
  return 1
}

has_font() { [ -f "$font" ]; }

has_redis() { command -v redis-server >/dev/null; }

# Debian keeps the server's own programs out of the PATH.
has_postgresql() {
  local program
  if command -v initdb >/dev/null && command -v postgres >/dev/null; then return 0; fi
  for program in /usr/lib/postgresql/*/bin/initdb; do
    if [ -x "$program" ] && [ -x "${program%initdb}postgres" ]; then return 0; fi
  done
  return 1
}

missing() {
  if ! has_font; then echo fonts-noto-color-emoji; fi
  if [ "${1:-}" = font ]; then return 0; fi
  if ! has_redis; then echo redis-server; fi
  if ! has_postgresql; then echo postgresql; fi
  if [ "${1:-}" != no-browser ] && ! has_browser; then echo chromium; fi
}

install_packages() {
  local prefix=()
  command -v apt-get >/dev/null || return 1
  if [ "$(id -u)" -ne 0 ]; then
    sudo -n true 2>/dev/null || return 1
    prefix=(sudo -n)
  fi
  echo "== installing with apt-get (once): $*"
  "${prefix[@]}" apt-get -qq -o DPkg::Lock::Timeout=300 update || return 1
  "${prefix[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 \
    install -y --no-install-recommends "$@" >/dev/null || return 1
}

wanted=$(missing "$@")
if [ -z "$wanted" ]; then exit 0; fi
# shellcheck disable=SC2086 # one word per package
install_packages $wanted || true
left=$(missing "$@" | paste -sd' ' -)
if [ -z "$left" ]; then exit 0; fi
if [ "${CI:-}" = true ]; then
  echo "Missing and not installable: $left. Their tests cannot run, and CI must not pass without them." >&2
  exit 1
fi
echo "== NOT FOUND: $left (Debian's names); the tests that need it will be SKIPPED, or install it yourself" >&2

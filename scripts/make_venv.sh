#!/usr/bin/env bash
# make_venv.sh PYTHON FOLDER: a virtual environment, or one clear sentence.
set -euo pipefail
python=${1:-}
folder=$2

if [ -z "$python" ]; then
  echo "No Python found: install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3.11" >&2
  exit 1
fi
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
  echo "$python is $("$python" --version); Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11" >&2
  exit 1
fi
if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
  echo "$python cannot make virtual environments; on Debian and Ubuntu: apt-get install python3-venv" >&2
  exit 1
fi
echo "== making $folder with $("$python" --version)"
"$python" -m venv "$folder"

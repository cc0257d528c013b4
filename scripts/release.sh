#!/usr/bin/env bash
# release.sh PYTHON DIST: build the wheel and the sdist, check both, install the wheel into an environment of its own,
# segment one bundled sample there, and write the software bill of materials of what was installed.
set -euo pipefail
python=$(cd "$(dirname "$1")" && pwd)/$(basename "$1") # the last steps run in another folder
dist=$(mkdir -p "$2" && cd "$2" && pwd)
top=$(cd "$(dirname "$0")/.." && pwd)
clean=$(mktemp -d)
trap 'rm -rf "$clean"' EXIT

if [ -n "$(git -C "$top" status --porcelain 2>/dev/null)" ]; then
  echo "the working tree has changes: commit or stash them, then run make release again" >&2
  exit 1
fi

rm -rf "$dist"
echo "== building wheel and sdist into $dist"
"$python" -m build --no-isolation --outdir "$dist" "$top" >"$clean/build.log" 2>&1 || { tail -20 "$clean/build.log" >&2; exit 1; }
"$python" -m twine check --strict "$dist"/*

echo "== installing the wheel into a clean environment (about three minutes)"
"$python" -m venv "$clean/venv"
pip=("$clean/venv/bin/python" -m pip install --quiet --disable-pip-version-check)
"${pip[@]}" --require-hashes --no-deps -r "$top/requirements.txt"
"${pip[@]}" ${TORCH_INDEX:+--no-deps --index-url "$TORCH_INDEX"} -r "$top/requirements-torch.txt"
"${pip[@]}" --no-deps "$dist"/*.whl
"$clean/venv/bin/python" -m pip check

echo "== segmenting one bundled sample with the installed wheel"
cd "$clean" # the checkout must not be importable
sample=$("$clean/venv/bin/python" -c 'import pathlib, int_model; print(pathlib.Path(int_model.__file__).parent / "nano/samples/polyp-02.png")')
case $sample in "$top"/*) echo "the clean environment imports the checkout: $sample" >&2; exit 1 ;; esac
"$clean/venv/bin/int-backend" segment "$sample" --task polyp --strategy grounded_sam --json >"$clean/result.json" 2>"$clean/segment.log" ||
  { tail -20 "$clean/segment.log" >&2; exit 1; }
"$clean/venv/bin/python" - "$clean/result.json" <<'PYTHON'
import json
import sys

(result,) = json.load(open(sys.argv[1], encoding="utf-8"))
if result.get("error") or not result.get("instances"):
    sys.exit(f"the installed wheel found nothing in the sample: {result.get('error')}")
print(f"found {len(result['instances'])} polyp(s)")
PYTHON

echo "== writing the bill of materials"
"$python" "$top/scripts/sbom.py" "$clean/venv/bin/python" "$dist/sbom.cdx.json" "$top"/requirements.txt "$top"/requirements-torch.txt
ls -l "$dist"

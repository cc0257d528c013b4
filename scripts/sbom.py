"""Write the software bill of materials (CycloneDX 1.6, JSON) of an environment, with the hashes of the pinned files.

    python scripts/sbom.py PYTHON FILE REQUIREMENTS...

An environment does not know which files it was installed from; the lock files do, as pip took no others. So each
package gets, as its distribution, the SHA-256 of every file that was allowed. Fails where an installed package is not
the pinned one, a pinned one is not installed, or one but torch has no hash.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.markers import Marker

INDEX = "https://pypi.org/simple"
UNPINNED = frozenset({"int-backend", "pip", "setuptools"})
"""The project itself, and what a new environment holds before anything is installed."""

WITHOUT_HASH = frozenset({"torch"})
"""Which of its builds is taken is up to its own index."""

_PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)\s*(?:;([^\\\n]*))?")
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class Pin:
    """One version of a package, and the SHA-256 of the files of it that may be installed."""

    version: str
    hashes: tuple[str, ...]


def canonical(name: str) -> str:
    """The normalised name of a package (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(text: str) -> dict[str, Pin]:
    """What a requirements file pins on this system, by name."""
    found = {}
    for entry in re.split(r"\n(?=[A-Za-z0-9])", text):
        if (pin := _PIN.match(entry)) and (pin[3] is None or Marker(pin[3].strip()).evaluate()):
            found[canonical(pin[1])] = Pin(pin[2], tuple(_HASH.findall(entry)))
    return found


def bill_of(python: str) -> dict[str, Any]:
    """What is installed for that interpreter. Raises ``ValueError`` where it cannot be listed."""
    command = [sys.executable, "-m", "cyclonedx_py", "environment", "--spec-version", "1.6", "--output-reproducible"]
    made = subprocess.run([*command, python], capture_output=True, text=True, check=False)  # noqa: S603
    if made.returncode:
        raise ValueError(f"cyclonedx-py failed: {made.stderr.strip()[-500:]}")
    bill: dict[str, Any] = json.loads(made.stdout)
    return bill


def completed(bill: dict[str, Any], pinned: dict[str, Pin]) -> dict[str, Any]:
    """The bill with the hashes.

    Raises:
        ValueError: it does not list what is pinned; the message names every package that differs.
    """
    listed = {canonical(entry["name"]): entry for entry in bill.get("components", [])}
    wrong = [
        f"{name} is pinned to {pin.version} but not installed" for name, pin in pinned.items() if name not in listed
    ]
    for name, entry in sorted(listed.items()):
        pin, version = pinned.get(name), str(entry.get("version", ""))
        if pin is None and name in UNPINNED:
            continue
        if pin is None:
            wrong.append(f"{name} {version} is installed but not pinned")
        elif version.partition("+")[0] != pin.version:
            wrong.append(f"{name} {version} is installed, {pin.version} is pinned")
        elif not pin.hashes and name not in WITHOUT_HASH:
            wrong.append(f"{name} {version} has no hash")
        elif pin.hashes:
            hashes = [{"alg": "SHA-256", "content": content} for content in pin.hashes]
            given = [one for one in entry.get("externalReferences", []) if one.get("type") != "distribution"]
            own = {"type": "distribution", "url": f"{INDEX}/{name}/", "hashes": hashes}
            entry["externalReferences"] = [*given, own]
    if wrong:
        raise ValueError("the environment is not the one that is pinned: " + "; ".join(wrong))
    return bill


def main() -> None:
    """Write the file, or say why not."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("python", help="of the environment")
    parser.add_argument("file", type=Path, help="to be written")
    parser.add_argument("requirements", type=Path, nargs="+", help="the lock files that it was made of")
    given = parser.parse_args()
    pinned = {name: pin for file in given.requirements for name, pin in pins(file.read_text("utf-8")).items()}
    try:
        bill = completed(bill_of(given.python), pinned)
    except ValueError as error:
        sys.exit(str(error))
    given.file.write_text(json.dumps(bill, indent=2) + "\n", encoding="utf-8")
    sys.stdout.write(f"{given.file}: {len(bill['components'])} packages, {len(pinned)} of them pinned\n")


if __name__ == "__main__":
    main()

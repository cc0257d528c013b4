"""The bill of materials lists every pinned package with its version and hashes, and nothing else."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import pytest

from scripts.sbom import UNPINNED, WITHOUT_HASH, Pin, bill_of, canonical, completed, pins

ROOT = Path(__file__).resolve().parents[3]
LOCKS = [ROOT / "requirements.txt", ROOT / "requirements-torch.txt"]
PINNED = {"anyio": Pin("4.1", ("a" * 64, "b" * 64)), "torch": Pin("2.0", ()), "pi-heif": Pin("1.0", ("c" * 64,))}
BILL = {
    "bomFormat": "CycloneDX",
    "components": [
        {"name": "anyio", "version": "4.1", "externalReferences": [{"type": "vcs", "url": "https://example.org"}]},
        {"name": "torch", "version": "2.0+cpu"},
        {"name": "pi_heif", "version": "1.0"},
        {"name": "int-backend", "version": "0.1"},
        {"name": "pip", "version": "24.0"},
    ],
}


def test_every_package_gets_the_hashes_of_its_pin() -> None:
    found = {entry["name"]: entry for entry in completed(copy.deepcopy(BILL), PINNED)["components"]}
    vcs, distribution = found["anyio"]["externalReferences"]
    assert vcs == {"type": "vcs", "url": "https://example.org"}
    assert (distribution["type"], distribution["url"]) == ("distribution", "https://pypi.org/simple/anyio/")
    assert distribution["hashes"] == [{"alg": "SHA-256", "content": sign * 64} for sign in "ab"]
    assert found["pi_heif"]["externalReferences"][0]["hashes"][0]["content"] == "c" * 64
    assert "externalReferences" not in found["torch"]


@pytest.mark.parametrize(
    ("pinned", "installed", "told"),
    [
        ({"more": Pin("1", ("d" * 64,))}, [], "more is pinned to 1 but not installed"),
        ({}, [{"name": "Extra.Thing", "version": "3"}], "extra-thing 3 is installed but not pinned"),
        ({"anyio": Pin("4.2", ("a" * 64,))}, [], "anyio 4.1 is installed, 4.2 is pinned"),
        ({"anyio": Pin("4.1", ())}, [], "anyio 4.1 has no hash"),
    ],
)
def test_an_environment_that_is_not_the_pinned_one_is_refused(
    pinned: dict[str, Pin], installed: list[dict[str, Any]], told: str
) -> None:
    bill = {**BILL, "components": [*copy.deepcopy(BILL["components"]), *installed]}
    with pytest.raises(ValueError, match=told):
        completed(bill, PINNED | pinned)


def test_pins_are_read_with_their_hashes_and_for_this_system_only() -> None:
    text = f"# head\nA.b==1.2 \\\n    --hash=sha256:{'1' * 64} \\\n    --hash=sha256:{'2' * 64}\nc==3\n"
    text += f"never==1 ; python_version < '3' \\\n    --hash=sha256:{'3' * 64}\n"
    assert pins(text) == {"a-b": Pin("1.2", ("1" * 64, "2" * 64)), "c": Pin("3", ())}


@pytest.mark.slow
def test_the_bill_of_this_environment_names_every_pin_with_version_and_hash() -> None:
    """As `make release` writes it; what else is installed here, for tests say, is left out before."""
    pytest.importorskip("cyclonedx_py", reason="requirements-release.txt is not installed; make release installs it")
    pinned = {name: pin for file in LOCKS for name, pin in pins(file.read_text()).items()}
    bill = bill_of(sys.executable)
    bill["components"] = [e for e in bill["components"] if canonical(e["name"]) in pinned.keys() | UNPINNED]
    bill = completed(bill, pinned)
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    found = {canonical(entry["name"]): entry for entry in bill["components"]}
    assert pinned.keys() | {"int-backend"} <= found.keys()
    for name, pin in pinned.items():
        assert found[name]["version"].partition("+")[0] == pin.version
        given = [one for entry in found[name].get("externalReferences", []) for one in entry.get("hashes", [])]
        assert name in WITHOUT_HASH or {one["content"] for one in given} == set(pin.hashes) != set()

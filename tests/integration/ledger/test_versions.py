"""Versions of what a project learned: kept in the database, one of them serves, and every change can be undone."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import select

from int_model.learning.adaptation import Adaptation, Outline
from int_model.learning.bundle import BundleError, Manifest, bundle_id, pack
from ml_backend.learning.versions import Version, VersionError, Versions
from ml_backend.storage.database import Database
from ml_backend.storage.store import Store
from ml_backend.storage.tables import AdapterRow

PROJECT = 7
FIGURES = {"table": {"base": {"mean": 0.5}, "outlines": {"mean": 0.7}}, "reasons": []}


def bundle(slot: int, *, parent: str = "", base: str = "sam1", threshold: float = 0.0, **figures: object) -> bytes:
    adaptation = Adaptation(outlines={"polyp": Outline(slot, threshold)})
    manifest = Manifest(base=base, data="d", arm="outlines", parent=parent, images=4, figures={**FIGURES, **figures})
    return pack(adaptation, manifest)


@pytest.fixture
def versions(database: Database) -> Versions:
    return Versions(database)


def names(found: list[Version]) -> list[tuple[str, bool]]:
    return [(version.name, version.serving) for version in found]


def test_a_project_without_versions_has_the_base_models(versions: Versions) -> None:
    assert versions.of_project(PROJECT) == versions.history(PROJECT) == []
    base = versions.show(PROJECT, "base")
    assert (base.id, base.name, base.serving, base) == ("", "base", True, versions.serving(PROJECT))
    with pytest.raises(VersionError, match="nothing to roll back to"):
        versions.rollback(PROJECT, who="ann")
    with pytest.raises(VersionError, match="has no version 'v1'; it has: base"):
        versions.promote(PROJECT, "v1", who="ann")


def test_versions_are_kept_with_their_figures_and_counted_per_project(versions: Versions) -> None:
    first = versions.add(PROJECT, bundle(1), accepted=True, report={"worst": [["a", 0.1]]}, run="3", corrections="c1")
    second = versions.add(PROJECT, bundle(2), accepted=False)
    other = versions.add(8, bundle(3), accepted=True)
    assert names(versions.of_project(PROJECT)) == [("v2", False), ("v1", False)]
    assert (first.number, second.number, other.number) == (1, 2, 1)
    assert (first.run, first.corrections, first.report) == ("3", "c1", {"worst": [["a", 0.1]]})
    assert (first.manifest.figures, first.manifest.images, first.manifest.arm) == (FIGURES, 4, "outlines")
    assert versions.add(PROJECT, bundle(1), accepted=True) == first, "the same bundle again changes nothing"
    assert versions.payload(first.id) == bundle(1)
    assert versions.of_run("3") == first
    assert versions.of_run("4") is versions.payload("0" * 12) is versions.trained_on("0" * 12) is None
    assert versions.trained_on(second.id) == "sam1"
    for which in ("v1", "1", first.id, first.id[:6].upper()):
        assert versions.show(PROJECT, which) == first
    with pytest.raises(BundleError, match="no bundle of learned weights"):
        versions.add(PROJECT, b"junk", accepted=True)


def test_promotion_and_rollback_go_back_step_by_step(versions: Versions, database: Database) -> None:
    store = Store(database)
    first = versions.add(PROJECT, bundle(1), accepted=True, serve=True)
    second = versions.add(PROJECT, bundle(2, parent=first.id), accepted=True, serve=True)
    assert (first.serving, second.serving, store.adapter_of(str(PROJECT))) == (True, True, second.id)
    assert versions.promote(PROJECT, "v2", who="ann") == second, "it serves already"
    assert versions.rollback(PROJECT, who="ann").id == first.id == store.adapter_of(str(PROJECT))
    assert versions.rollback(PROJECT, who="ann").id == store.adapter_of(str(PROJECT)) == ""
    assert versions.promote(PROJECT, second.id, who="bob").name == "v2"
    assert versions.rollback(PROJECT, who="bob").name == "base", "what served before bob's promotion"
    assert versions.promote(PROJECT, "v1", who="bob").name == "v1"
    assert versions.promote(PROJECT, "base", who="bob").name == "base"
    story = [(entry.adapter, entry.former, entry.how, entry.who) for entry in reversed(versions.history(PROJECT))]
    assert story == [
        (first.id, "", "gate", "the gate"),
        (second.id, first.id, "gate", "the gate"),
        (first.id, second.id, "rollback", "ann"),
        ("", first.id, "rollback", "ann"),
        (second.id, "", "promote", "bob"),
        ("", second.id, "rollback", "bob"),
        (first.id, "", "promote", "bob"),
        ("", first.id, "promote", "bob"),
    ]
    assert names(versions.of_project(PROJECT)) == [("v2", False), ("v1", False)], "versions are added, never removed"


def test_what_the_gate_refused_or_another_base_does_not_serve(versions: Versions) -> None:
    versions.add(PROJECT, bundle(1, reasons=["the label 'a' loses 0.05"]), accepted=False)
    with pytest.raises(VersionError, match=r"the gate refused v1 \(the label 'a' loses 0.05\); use --force"):
        versions.promote(PROJECT, "v1", who="ann")
    with pytest.raises(VersionError, match=r"trained on another segmenter \(sam1, serving is sam2\)"):
        versions.promote(PROJECT, "v1", who="ann", base="sam2", force=True)
    assert versions.promote(PROJECT, "v1", who="ann", base="sam1", force=True).serving
    assert versions.promote(PROJECT, "base", who="ann", base="sam2").name == "base", "the base models always serve"


def test_the_gate_promotes_only_over_the_version_that_it_compared_with(versions: Versions) -> None:
    first = versions.add(PROJECT, bundle(1), accepted=True, serve=True)
    late = versions.add(PROJECT, bundle(2, parent=""), accepted=True, serve=True)
    assert (versions.serving(PROJECT), late.serving) == (first, False)


def test_many_add_and_promote_at_once(opened: Callable[[], Database]) -> None:
    databases = [opened() for _ in range(3)]
    barrier = threading.Barrier(6)

    def add(index: int) -> None:
        barrier.wait(30)
        own = Versions(databases[index % 3])
        own.add(PROJECT, bundle(index % 4, threshold=0.1 * index), accepted=True, serve=index % 2 == 0)

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(add, range(6)))
    found = Versions(databases[0])
    assert [version.number for version in found.of_project(PROJECT)] == [6, 5, 4, 3, 2, 1]
    assert len(found.history(PROJECT)) == 1, "all had the base models as parent: one of them was promoted"


KILLED = """
import os, signal, sys
from ml_backend.learning import versions
from ml_backend.storage.database import Database
bundle = sys.stdin.buffer.read()
choose = versions.Versions._choose
def dies(self, connection, *args):
    choose(self, connection, *args)
    os.kill(os.getpid(), signal.SIGKILL)
versions.Versions._choose = dies
versions.Versions(Database(sys.argv[1])).add(7, bundle, accepted=True, run="5", serve=True)
"""


def test_a_process_killed_during_promotion_changes_nothing(url: str, opened: Callable[[], Database]) -> None:
    versions = Versions(opened())
    first = versions.add(PROJECT, bundle(1), accepted=True, serve=True)
    new = bundle(2, parent=first.id)
    killed = subprocess.run([sys.executable, "-c", KILLED, url], input=new, capture_output=True, timeout=60)
    assert killed.returncode == -9, killed.stderr.decode()
    again = Versions(opened())
    assert (again.serving(PROJECT), again.of_run("5"), len(again.history(PROJECT))) == (first, None, 1)
    assert again.add(PROJECT, new, accepted=True, run="5", serve=True).serving, "it can be done again"


def test_version_strings_are_remembered(versions: Versions, database: Database) -> None:
    first = versions.add(PROJECT, bundle(1), accepted=True)
    for text in ("int-a", "int-b", "int-a"):
        versions.name(PROJECT, text, first.id)
    versions.name(8, "int-c", first.id)
    assert sorted(versions.names(PROJECT, first.id)) == ["int-a", "int-b"]
    assert versions.names(PROJECT, "") == []
    with database.read() as connection:
        kept = json.loads(connection.scalar(select(AdapterRow.manifest)) or "")
    assert kept["adaptation"] == {}, "the tensors and what describes them are in the bundle alone"
    assert bundle_id(bundle(1)) == first.id

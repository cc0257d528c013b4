"""What strangers write into logs and pages; and who on this machine may read what the backend keeps."""

from __future__ import annotations

import io
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from ml_backend.cli.serve import check_data_folder
from ml_backend.serving.log_lines import LineFormatter, Throttle, one_line
from ml_backend.storage.database import Database
from tests.support.harness import GOOD, POLYGONS, backend
from tests.support.label_studio import TOKEN, LabelStudio, label_studio
from tests.support.served import Served, served

FORGED = (
    "x\n2026-11-21 21:00:00,000 ERROR ml_backend: the disk is full\r\x1b[31m\x1b]0;owned\x07\u2028\u202egnp.a\x9b1m"
)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Served, Path]]:
    folder = tmp_path_factory.mktemp("data")
    with served(folder) as made:
        made.client.get("/health")
        yield made, folder / "served.log"


def predict(made: Served, data: object, config: str = POLYGONS, project: str = "1") -> None:
    body = {"tasks": [{"id": 1, "data": data}], "project": project, "label_config": config}
    assert made.client.post("/predict", json=body).json()["results"] == [[]]


def test_text_of_strangers_is_one_line_wherever_it_comes_from(running: tuple[Served, Path]) -> None:
    made, log = running
    before = len(log.read_text().splitlines())
    attribute = POLYGONS.replace('name="label"', f'name="label" model_strategy="{FORGED[:30]}&#10;forged"').replace(
        "\x1b", ""
    )
    predict(made, {"image": f"http://{FORGED}/a.png"})
    predict(made, {"image": f"/data/upload/{FORGED}.png"})
    predict(made, {FORGED: 1})
    predict(made, GOOD, project=FORGED, config="<View/>")
    body = {"project": FORGED, "schema": attribute, "extra_params": {"strategy": FORGED}}
    assert made.client.post("/setup", json=body).status_code == 200
    made.client.get(f"/nope/{'%0a%1b'}x")
    lines = log.read_text().splitlines()[before:]
    assert len(lines) >= 5
    assert all(line[:4].isdigit() and " WARNING " in line[:40] for line in lines), lines
    text = "\n".join(lines) + "\n".join(made.client.get("/status").json()["problems"])
    assert not [c for c in text if (ord(c) < 32 and c != "\n") or c in "\x7f\x9b\u2028\u202e"]


def test_a_flood_of_long_problems_fills_neither_the_log_nor_the_page(running: tuple[Served, Path]) -> None:
    made, log = running
    before = log.stat().st_size
    tasks = [{"id": number, "data": {"x" * 1000: 1}} for number in range(1000)]
    body = {"tasks": tasks, "project": "1", "label_config": POLYGONS}
    for _ in range(3):
        assert made.client.post("/predict", json=body).status_code == 200
    assert log.stat().st_size - before < 400_000
    assert len(made.client.get("/status").content) < 40_000


def test_messages_and_tracebacks_cannot_pretend_to_be_lines() -> None:
    sink = io.StringIO()
    handler = logging.StreamHandler(sink)
    handler.setFormatter(LineFormatter("%(levelname)s: %(message)s"))
    log = logging.Logger("test")
    log.addHandler(handler)
    try:
        int(FORGED)
    except ValueError:
        log.exception("it %s", FORGED)
    first, *others = sink.getvalue().splitlines()
    assert first.startswith("ERROR: it x\\x0a2026-11-21")
    assert all(line.startswith("  | ") for line in others)
    assert one_line("é漢字 😀 a\tb") == "é漢字 😀 a\\x09b"
    assert one_line("x" * 50, 10) == "xxxxxxxxxx... (50 characters)"


def test_a_flood_is_counted() -> None:
    now = [0.0]
    throttle = Throttle(burst=3, rate=1.0, clock=lambda: now[0])
    assert [throttle.admits() for _ in range(5)] == [0, 0, 0, None, None]
    now[0] = 1.5
    assert [throttle.admits(), throttle.admits()] == [2, None]


# --- files ------------------------------------------------------------------------------------------------------------


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_nobody_else_may_read_the_data(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        for make in (check_data_folder, lambda folder: Database.in_folder(folder).close()):
            folder = tmp_path / str(mode(tmp_path)) / str(id(make)) / "data"
            make(folder)
            assert mode(folder) == 0o700
        database = Database.in_folder(folder)
        with database.read() as connection:
            connection.exec_driver_sql("SELECT 1")
            assert {mode(path) for path in folder.iterdir()} == {0o600}
        database.close()
        (folder / "backend.sqlite3").chmod(0o644)  # as older versions left it
        Database.in_folder(folder).close()
        assert {mode(path) for path in folder.iterdir()} == {0o600}
    finally:
        os.umask(before)


# --- names of patients ------------------------------------------------------------------------------------------------

NAME = "Mustermann_Erika_1964"


def test_names_of_files_stay_out_of_status_log_and_ledger(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = tmp_path / "root"
    (root / NAME).mkdir(parents=True)
    (root / f"{NAME}.png").symlink_to("/etc/passwd")
    (root / "big.png").write_bytes(bytes(5000))
    addresses = [
        f"/data/upload/1/{NAME}.png", f"http://127.0.0.1:9/{NAME}/a.png", f"ftp://h/{NAME}.png", f"http://[{NAME}",
        f"/data/local-files/?d={NAME}.png", f"/data/local-files/?d=../{NAME}", f"http://127.0.0.1:9/{NAME}\n.png",
        f"s3://bucket/{NAME}.dcm", f"/api/{NAME}", f"data:image/png;base64,{NAME}", f"gopher://{'x' * 200}/{NAME}",
    ]  # fmt: skip
    redirects = {"/data/upload/1/r.png": f"/api/{NAME}", f"s3://bucket/{NAME}.dcm": f"/api/{NAME}"}
    with (
        label_studio(LabelStudio(valid={f"Token {TOKEN}"}, redirects=redirects)) as fake,
        backend(
            tmp_path / "data", label_studio_url=fake.url, label_studio_api_key=TOKEN, hide_names=True,
            local_roots=str(root), max_image_bytes=1024, allowed_hosts="127.0.0.1",
        ) as made,
    ):  # fmt: skip
        for address in [*addresses, "/data/upload/1/r.png", "/data/local-files/?d=big.png"]:
            assert made.predict({"image": address}) == [[]]
        said = made.problems()
    assert NAME not in said + caplog.text
    assert re.search(r"the image at http://127\.0\.0\.1:\d+/\.\.\. is not there \(404\)", said)
    assert "a local file has more than 1024 bytes" in said

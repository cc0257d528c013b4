"""A Label Studio in good health, to be broken in one way by each test of the doctor."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ml_backend.doctor.diagnosis import Diagnosis
from ml_backend.doctor.examination import Environment, examine
from ml_backend.settings import Settings
from tests.support.conversation import recorded
from tests.support.harness import encoded, picture
from tests.support.label_studio import PAT, LabelStudio

UPLOAD = "/data/upload/1/red.png"
HERE = "http://127.0.0.1:9090"
VERSION = "int-nano-int-0123abcd"
GPU = {"name": "H100", "total_gb": 80.0, "free_gb": 78.0}


@dataclass
class World(LabelStudio):
    """A healthy Label Studio, and the settings and the machine of the backend that looks at it."""

    names: dict[str, list[str]] = field(default_factory=dict)
    cards: list[dict[str, Any]] = field(default_factory=list)
    ram_gb: float = 16.0
    probe_fails: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    folder: Path = Path()

    def __post_init__(self) -> None:
        super().__post_init__()
        self.project |= {"title": "Frogs"}
        given = {"url": HERE, "model_version": VERSION, "is_interactive": False}
        self.connections = [recorded("connections")[0] | given]
        self.webhooks = [recorded("webhooks")[0] | {"url": f"{HERE}/webhook"}]
        self.tasks = {5: {"data": {"image": UPLOAD}}}
        self.files[UPLOAD] = encoded(picture())
        self.refresh, self.valid = PAT, {"nothing yet"}
        write_profile(self.folder)

    @property
    def row(self) -> dict[str, Any]:
        return self.connections[0]

    def release(self, content: Any) -> None:
        """Let ``/api/version`` answer something else."""
        self.files["/api/version"] = content if isinstance(content, bytes) else json.dumps(content).encode()

    def look(self, *, project_id: int | None = None, fix: bool = False) -> list[Diagnosis]:
        given: dict[str, Any] = {
            "label_studio_url": self.url,
            "label_studio_api_key": PAT,
            "data_dir": self.folder,
            "port": 9,
            "profile": str(self.folder / "tiny.toml"),
            **self.settings,
        }
        return list(examine(Settings(**given), project_id=project_id, fix=fix, environment=self.environment()))

    def environment(self) -> Environment:
        def probe() -> Mapping[str, Any]:
            if self.probe_fails:
                raise RuntimeError(self.probe_fails)
            return {"cuda": self.cards, "mps": False, "ram_gb": self.ram_gb}

        return Environment(probe, lambda host: self.names.get(host, []))


def write_profile(folder: Path, memory_gb: float = 1.0) -> None:
    """A profile whose weights are (empty shells) in the folder."""
    lines = [f"[meta]\nmemory_gb = {memory_gb}", '[inpainter]\nkind = "opencv"']
    for role in ("vlm", "detector", "segmenter", "text_image"):
        (folder / role).mkdir(exist_ok=True)
        (folder / role / "config.json").write_text("{}")
        (folder / role / "model.safetensors").write_bytes(b"weights")
        lines.append(f'[{role}]\nid = "./{role}"')
    (folder / "tiny.toml").write_text("\n".join(lines))

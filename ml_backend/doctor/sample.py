"""One image of the project, fetched as the service does it: which step fails."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from urllib.parse import urlsplit

from int_model.io.errors import ImageError
from int_model.io.images import decode_image
from ml_backend.context import image_fetcher
from ml_backend.doctor.diagnosis import Diagnosis, of_error, ok, problem, split_remedy
from ml_backend.fetching.errors import FetchError
from ml_backend.labelstudio.client import LabelStudioClient, LabelStudioError
from ml_backend.labelstudio.label_config import ConfigError, LabelingConfig
from ml_backend.settings import Settings

IMAGE = "sample image"
_REMEDIES = {
    "upload": "check LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY",
    "local file": "give Label Studio LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED=true and a local storage of that folder, "
    "or mount the folder here and name it in INT_LOCAL_ROOTS",
    "cloud storage": "check the project's storage in Label Studio: it must presign addresses",
    "web address": "check that the address opens from this machine; name private hosts in INT_ALLOWED_HOSTS",
    "data: address": "import the image again",
    "address": "import the image as an upload, or by http(s), s3, gs, azure-blob or local storage",
}


def examine_sample(client: LabelStudioClient, project_id: int, config: LabelingConfig, settings: Settings) -> Diagnosis:
    """Take the first task of the project, find its image's address, fetch it, decode it."""
    query = {"project": project_id, "page": 1, "page_size": 1, "fields": "all"}
    try:
        answer = client.json("GET", "/api/tasks", params=query)
    except LabelStudioError as error:
        return of_error(IMAGE, error, "check the token's access to the project", before="Step 1, asking for a task: ")
    tasks = answer.get("tasks") if isinstance(answer, Mapping) else answer
    if not isinstance(tasks, list) or not tasks or not isinstance(tasks[0], Mapping):
        return problem(IMAGE, "The project has no tasks.", "import images into the project")
    task, data = tasks[0], tasks[0].get("data")
    task_id = task.get("id") if isinstance(task.get("id"), int) else None
    image = next(image for name, image in config.images.items() if config.targets(name))
    try:
        address = next(filter(None, image.addresses(data if isinstance(data, Mapping) else {})))
    except ConfigError as error:
        before = f"Step 2, the image's address in task {task_id}: "
        return of_error(IMAGE, error, "import tasks with that field", before=before)
    kind = kind_of(address, client.origin.path)
    try:
        content = asyncio.run(_fetch(settings, client, address, task_id))
    except (FetchError, LabelStudioError) as error:
        before = f"Step 3, fetching the image of task {task_id} ({kind}): "
        return of_error(IMAGE, error, _REMEDIES[kind], before=before)
    try:
        pixels = decode_image(content, max_pixels=settings.max_image_pixels)
    except ImageError as error:
        text, remedy = split_remedy(str(error), "replace the file by a JPEG, PNG, WebP, TIFF or BMP, or skip the task")
        if "limit is" in text:
            remedy = "make the image smaller, or raise INT_MAX_IMAGE_PIXELS"
        return problem(IMAGE, f"Step 4, decoding the image of task {task_id}: {text.rstrip('.')}.", remedy)
    height, width = pixels.shape[:2]
    return ok(IMAGE, f"The image of task {task_id} ({kind}) was fetched and decoded: {width} x {height} pixels.")


def kind_of(address: str, mounted: str = "") -> str:
    """In words, where an image address leads; ``mounted`` is the path that Label Studio lies under."""
    if address.startswith("data:"):
        return "data: address"
    try:
        parts = urlsplit(address.strip())
    except ValueError:
        return "address"
    path = parts.path.removeprefix(mounted)
    if path.startswith("/data/upload/"):
        return "upload"
    if path.startswith("/data/local-files"):
        return "local file"
    if parts.scheme in ("http", "https"):
        return "web address"
    if parts.scheme in ("s3", "s3s", "gs", "azure-blob", "azure_blob", "azure-spi"):
        return "cloud storage"
    return "address" if parts.scheme else "upload"


async def _fetch(settings: Settings, client: LabelStudioClient, address: str, task_id: int | None) -> bytes:
    fetcher = image_fetcher(settings, client)
    try:
        return await fetcher.fetch(address, task_id)
    finally:
        await fetcher.close()

"""Helpers of the tests that fetch images."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from ml_backend.fetching.images import ImageFetcher
from ml_backend.labelstudio.client import LabelStudioClient
from tests.support.label_studio import LabelStudio

FILE = b"the file"


def fetch(address: str, task_id: int | None = 7, **options: Any) -> bytes:
    async def run() -> bytes:
        fetcher = ImageFetcher(**options)
        try:
            return await fetcher.fetch(address, task_id)
        finally:
            await fetcher.close()

    return asyncio.run(run())


def resolves(**names: str | Sequence[str]) -> Callable[[str, int], Any]:
    """A resolver that knows these names (``_`` for ``.``) and nothing else, but addresses themselves."""

    async def resolver(host: str, _: int) -> list[str]:
        found = names.get(host.replace(".", "_").replace("-", "_"))
        if found is None:
            return [host.strip("[]")]
        return [found] if isinstance(found, str) else list(found)

    return resolver


def connect(stub: LabelStudio, token: str = "", **options: Any) -> dict[str, Any]:
    client = LabelStudioClient(stub.url, token, sleep=lambda _: None)
    return {"origin": client.origin, "credentials": client.tokens, **options}

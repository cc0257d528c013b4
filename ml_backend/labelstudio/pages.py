"""The images of a task one by one, so that what is wrong with one does not cost the others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ml_backend.labelstudio.label_config import ConfigError, ImageObject, LabelingConfig


@dataclass(frozen=True, slots=True)
class Page:
    """One image of a task.

    Attributes:
        image: the tag that shows it.
        address: where it is; "" with an ``error``.
        item_index: its place in a ``valueList``, else None.
        error: why the task's data hold no address for it.
    """

    image: ImageObject
    address: str
    item_index: int | None = None
    error: ConfigError | None = None

    @property
    def name(self) -> str:
        """How messages call it; pages are counted from 1, as Label Studio counts them."""
        tag = f"<Image name='{self.image.name}'>"
        return tag if self.item_index is None else f"page {self.item_index + 1} of {tag}"


def pages_of(config: LabelingConfig, data: Mapping[str, Any]) -> Iterator[Page]:
    """The images of a task that some control annotates, in the order of the config."""
    for image in config.images.values():
        if not config.targets(image.name):
            continue
        try:
            addresses = image.addresses(data)
        except ConfigError as error:
            yield Page(image, "", error=error)
            continue
        for index, address in enumerate(addresses):
            problem = None if address else ConfigError("the task's data hold no address for it")
            yield Page(image, address, index if image.is_list else None, problem)

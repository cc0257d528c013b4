"""The client and the fetcher as the service makes them, from the same settings."""

from __future__ import annotations

from ml_backend.fetching.addresses import AddressPolicy
from ml_backend.fetching.images import FetchLimits, ImageFetcher
from ml_backend.labelstudio.client import LabelStudioClient
from ml_backend.settings import Settings


def make_client(settings: Settings, *, timeout: float, with_token: bool = True) -> LabelStudioClient | None:
    """The client of the settings' Label Studio, without retries; None if no address is set."""
    if not settings.label_studio_url:
        return None
    key = settings.label_studio_api_key
    token = key.get_secret_value() if key and with_token else ""
    return LabelStudioClient(settings.label_studio_url, token, ca_bundle=settings.ca_bundle, timeout=timeout, retries=0)


def make_fetcher(settings: Settings, client: LabelStudioClient) -> ImageFetcher:
    """What fetches images; make, use and close it in one event loop. Raises ``ValueError`` for a broken network."""
    return ImageFetcher(
        client.origin,
        client.tokens,
        policy=AddressPolicy.of(settings.allowed_hosts),
        local_roots=settings.local_roots,
        limits=FetchLimits(settings.max_image_bytes, settings.image_timeout),
        ca_bundle=settings.ca_bundle,
    )

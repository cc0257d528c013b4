"""Settings for every test."""

import pytest
from hypothesis import settings

settings.register_profile("quiet", deadline=None, derandomize=True)  # no test may depend on the machine's speed
settings.load_profile("quiet")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """End-to-end tests last: what is quick to fail fails first."""
    items.sort(key=lambda item: "tests/e2e/" in item.path.as_posix())

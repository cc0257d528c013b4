"""Settings for every test."""

import logging
from collections.abc import Generator, Iterator

import pytest
from hypothesis import settings

from tests.support import torchvision_ops

torchvision_ops.declare()  # before any test imports transformers, which imports torchvision
settings.register_profile("quiet", deadline=None, derandomize=True)  # no test may depend on the machine's speed
settings.load_profile("quiet")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """End-to-end tests last: what is quick to fail fails first. What talks to other processes may fail once.

    A browser, a database or Label Studio can be late on a machine that is busy with something else. The end of the run
    names each test that passed only the second time: it waits for a time where it should wait for a condition.
    """
    items.sort(key=lambda item: "tests/e2e/" in item.path.as_posix())
    for item in items:
        if any(folder in item.path.as_posix() for folder in ("tests/e2e/", "tests/integration/")):
            item.add_marker(pytest.mark.flaky(reruns=1))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Half characters that a test has sent, and its log repeats, cannot travel between the processes of a test run."""
    report = yield
    report.sections = [(title, text.encode("utf-8", "backslashreplace").decode()) for title, text in report.sections]
    return report


@pytest.fixture(autouse=True)
def _levels_of_our_loggers() -> Iterator[None]:
    """Commands set them for the whole process; what the next test hears must not depend on it."""
    own = ("int_model", "ml_backend")

    def levels() -> dict[str, int]:
        known = logging.Logger.manager.loggerDict
        return {name: logging.getLogger(name).level for name in (*own, *known) if name.startswith(own)}

    before = levels()
    yield
    for name in levels():
        logging.getLogger(name).setLevel(before.get(name, logging.NOTSET))

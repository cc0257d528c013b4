"""Who fails and what is tried, where the service's last resorts play no part (those: ``test_recovery``)."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from int_model.models.errors import TransientModelError
from int_model.runner.isolation import Failure, isolate


def outcomes(error: Exception, items: Sequence[int], bad: int) -> tuple[list[list[int]], list[object]]:
    """What was tried, and what came of each item, where ``bad`` raises."""
    tried: list[list[int]] = []

    def attempt(part: Sequence[int]) -> list[int]:
        tried.append(list(part))
        if bad in part:
            raise error
        return [10 * value for value in part]

    found: dict[int, object] = dict(isolate(attempt, items))
    return tried, [found[place] for place in range(len(items))]


def test_after_a_failure_items_go_one_by_one() -> None:
    tried, found = outcomes(RuntimeError("boom\nboom"), [1, 2, 3, 4], bad=3)
    assert tried == [[1, 2, 3, 4], [1], [2], [3], [4]]
    assert found[:2] == [10, 20]
    assert found[2] == Failure("RuntimeError", "boom boom")
    assert found[3] == 40


def test_out_of_memory_a_batch_is_halved_and_a_single_item_tried_twice() -> None:
    tried, found = outcomes(MemoryError(), [1, 2, 3, 4], bad=3)
    assert tried == [[1, 2, 3, 4], [1, 2], [3, 4], [3], [3], [4]]
    assert isinstance(found[2], Failure)
    assert found[2].memory
    assert (found[0], found[3]) == (10, 40)


def test_a_transient_failure_blames_no_item_and_is_not_taken_apart() -> None:
    tried, found = outcomes(TransientModelError("busy", retry_after=3.0), [1, 2, 3], bad=2)
    assert tried == [[1, 2, 3]]
    assert all(isinstance(failure, Failure) and failure.transient for failure in found)
    assert found[0] == found[2]
    assert (
        "cannot answer at the moment (busy); run the same command again"
        in Failure.of(TransientModelError("busy")).explain()
    )


def test_a_strategy_that_miscounts_is_a_failure() -> None:
    ((_, failure),) = isolate(lambda part: [*part, 0], [1])
    assert isinstance(failure, Failure)
    assert "the strategy gave 2 results for 1 images" in failure.explain()


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (RuntimeError("boom\nboom"), "RuntimeError: boom boom"),
        (ValueError("too small;  use more"), "too small; use more"),
        (RuntimeError("CUDA out of memory. Tried"), "limits.max_side"),
        (MemoryError(), "limits.max_side"),
        (IndexError(), "IndexError"),
    ],
)
def test_failures_are_one_sentence(error: Exception, sentence: str) -> None:
    told = Failure.of(error).explain()
    assert sentence in told
    assert "\n" not in told

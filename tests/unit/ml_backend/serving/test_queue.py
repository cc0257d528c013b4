"""The queue of images against a model: nothing is lost, nothing is done twice, the most urgent goes first."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, precondition, rule

from int_model.core.task_prompt import TaskPrompt
from ml_backend.errors import BusyError
from ml_backend.serving.queue import ImageQueue, Job, Priority, Request, Stage, Waiter

IMAGE = np.zeros((2, 2, 3), np.uint8)
PLACES, DOWNLOADS, RESERVE = 4, 2, 1
CONTENT = {"a": "1", "b": "2", "c": "2", "d": "3", "e": "4", "f": "5", "g": "6", "h": "7"}
"""Addresses and the digests of their files; two have the same file."""


def request(address: str, prompt: str = "frog", strategy: str = "") -> Request:
    return Request(f"@{address}", address, None, TaskPrompt(prompt), strategy)


class QueueMachine(RuleBasedStateMachine):
    waiters = Bundle("waiters")
    loads = Bundle("loads")
    decoded = Bundle("decoded")
    running = Bundle("running")

    def __init__(self) -> None:
        super().__init__()
        self.queue = ImageQueue(places=PLACES, downloads=DOWNLOADS, reserve=RESERVE, size=1000)
        self.wanted: dict[tuple[int, Request], tuple[Waiter, Any]] = {}  # the token stands for a future
        self.jobs: list[Job] = []  # in the order of arrival

    # --- waiters

    @rule(target=waiters, priority=st.sampled_from(Priority))
    def come(self, priority: Priority) -> Waiter:
        return Waiter(priority)

    @rule(waiter=waiters, address=st.sampled_from(sorted(CONTENT)), prompt=st.sampled_from(["frog", "fish"]))
    def join(self, waiter: Waiter, address: str, prompt: str) -> None:
        wish = request(address, prompt)
        known = self.queue.find(wish)
        job = self.queue.join(waiter, wish)
        assert job is known or known is None
        if known is None:
            self.jobs.append(job)
        if (id(waiter), wish) not in self.wanted:
            token: Any = Future()
            job.results.append(token)
            self.wanted[id(waiter), wish] = waiter, token

    @rule(waiter=waiters, priority=st.sampled_from(Priority))
    def change(self, waiter: Waiter, priority: Priority) -> None:
        self.queue.set_priority(waiter, priority)

    @rule(waiter=consumes(waiters))
    def leave(self, waiter: Waiter) -> None:
        self.queue.leave(waiter)
        self.wanted = {key: entry for key, entry in self.wanted.items() if entry[0] is not waiter}

    @rule(waiter=consumes(waiters), successor=waiters)
    def hand_over(self, waiter: Waiter, successor: Waiter) -> None:
        assume(waiter is not successor)
        self.queue.leave(waiter, successor)
        for (_, wish), (_, token) in [item for item in self.wanted.items() if item[1][0] is waiter]:
            del self.wanted[id(waiter), wish]
            self.wanted.setdefault((id(successor), wish), (successor, token))

    # --- files

    @rule(target=loads)
    def load(self) -> Any:
        waiting = sorted((job for job in self.live(Stage.QUEUED)), key=lambda job: job.order)
        begun = {job.source for job in self.live(Stage.LOADING, Stage.READY, Stage.RUNNING)}
        jobs = self.queue.next_to_load()
        if not waiting:
            assert jobs == []
            return multiple()
        first = waiting[0]
        extra = RESERVE * (Priority.BATCH - first.priority)
        if not jobs:
            assert self.loading >= DOWNLOADS + extra or len(begun) >= PLACES + extra
            return multiple()
        assert first in jobs
        assert {job.source for job in jobs} == {first.source}
        assert self.loading < DOWNLOADS + extra
        assert len(begun) < PLACES + extra
        self.loading += 1
        return jobs

    loading = 0

    @rule(target=decoded, jobs=consumes(loads))
    def fetched(self, jobs: list[Job]) -> list[Job]:
        digest = CONTENT[jobs[0].request.address]
        left = self.queue.fetched(jobs, digest)
        assert all(job.source == digest for job in left)
        return left

    @rule(jobs=consumes(decoded))
    def decode(self, jobs: list[Job]) -> None:
        ready = self.queue.end_load(jobs, IMAGE)
        assert all(job.stage is Stage.READY for job in ready)
        self.loading -= 1

    @rule(jobs=consumes(decoded))
    def cannot_decode(self, jobs: list[Job]) -> None:
        for job in jobs:
            self.deliver(job)
        assert self.queue.end_load(jobs) == []
        self.loading -= 1

    # --- the models

    @rule(target=running, most=st.integers(1, 3))
    def take(self, most: int) -> Any:
        ready = sorted(self.live(Stage.READY), key=lambda job: job.order)
        at_work = {(job.source, job.request.kind) for job in self.live(Stage.RUNNING)}
        jobs = self.queue.take(most)
        alike = [job for job in ready if job.request.kind == ready[0].request.kind]
        if ready and ready[0].priority == Priority.INTERACTIVE:
            alike = [job for job in alike if job.priority == Priority.INTERACTIVE]
        assert jobs == alike[:most]
        assert not at_work & {(job.source, job.request.kind) for job in jobs}
        return multiple(*jobs)

    @rule(job=consumes(running))
    def done(self, job: Job) -> None:
        assert job.stage is Stage.RUNNING
        self.deliver(job)

    # --- what must hold

    @invariant()
    def everybody_is_waited_upon(self) -> None:
        for (_, wish), (waiter, token) in self.wanted.items():
            job = self.queue.find(wish)
            assert job is not None
            assert waiter in job.waiters
            assert job in waiter.jobs
            assert token in job.results

    @invariant()
    def work_that_is_not_wanted_is_dropped(self) -> None:
        for job in self.live(Stage.QUEUED, Stage.READY):
            assert job.waiters

    @precondition(lambda self: not self.jobs)
    @invariant()
    def nothing_comes_from_nowhere(self) -> None:
        assert self.queue.ready == 0

    def live(self, *stages: Stage) -> list[Job]:
        """The jobs that the queue has, merged ones once."""
        found = {id(job): job for job in self.jobs if self.queue.find(job.request) is job}
        return [job for job in found.values() if job.stage in stages]

    def deliver(self, job: Job) -> None:
        self.queue.finish(job)
        given = [key for key, (_, token) in self.wanted.items() if token in job.results]
        for key in given:
            del self.wanted[key]
        job.results.clear()


QueueMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=60)
TestQueue = QueueMachine.TestCase


def queue(**changes: int) -> ImageQueue:
    return ImageQueue(**{"places": 2, "downloads": 2, "reserve": 1, **changes})


def make_ready(made: ImageQueue, count: int = 1) -> list[Job]:
    """Load so many images."""
    found = []
    for _ in range(count):
        jobs = made.next_to_load()
        found += made.end_load(made.fetched(jobs, jobs[0].request.address), IMAGE)
    return found


def test_whoever_joins_makes_it_more_urgent_and_who_leaves_lets_it_fall_back() -> None:
    made = queue(places=9, downloads=9)
    run, person = Waiter(Priority.BATCH), Waiter(Priority.PREDICT)
    jobs = [made.join(run, request(address)) for address in "abcd"]
    assert made.join(person, request("c")) is jobs[2]
    make_ready(made, 4)
    assert made.take(1) == [jobs[2]]
    made.join(person, request("d"))
    assert jobs[3].priority == Priority.PREDICT
    made.leave(person)
    assert jobs[3].priority == Priority.BATCH
    assert made.take(9) == [jobs[0], jobs[1], jobs[3]]


def test_less_urgent_images_fill_a_batch_behind_the_urgent_ones_but_never_an_interactive_one() -> None:
    made = queue(places=9, downloads=9)
    run, person, typed = (Waiter(priority) for priority in (Priority.BATCH, Priority.PREDICT, Priority.INTERACTIVE))
    a, b = made.join(run, request("a")), made.join(person, request("b"))
    c = made.join(typed, request("c"))
    make_ready(made, 3)
    assert made.take(3) == [c]
    assert made.take(3) == [b, a]


def test_urgent_images_are_fetched_though_all_places_are_held() -> None:
    made = queue()
    for address in "abc":
        made.join(Waiter(Priority.BATCH), request(address))
    make_ready(made, 2)
    assert made.next_to_load() == []
    urgent = [made.join(Waiter(Priority.PREDICT), request(address)) for address in "de"]
    assert make_ready(made) == urgent[:1]
    assert made.next_to_load() == []
    clicked = made.join(Waiter(Priority.INTERACTIVE), request("f"))
    assert make_ready(made) == [clicked]
    for job in made.take(9) + made.take(1):
        made.finish(job)
    assert make_ready(made) == urgent[1:]


def test_what_nobody_waits_for_is_dropped_unless_the_models_are_at_it() -> None:
    made = queue(places=9, downloads=9)
    waiters = [Waiter(Priority.PREDICT) for _ in range(4)]
    jobs = [made.join(waiter, request(address)) for waiter, address in zip(waiters, "abcd", strict=True)]
    make_ready(made, 2)
    made.take(1)
    loading = made.next_to_load()
    for waiter in waiters:
        made.leave(waiter)
    assert [made.find(job.request) for job in jobs] == [jobs[0], None, jobs[2], None]
    assert [job.segmentation.cancelled() for job in jobs] == [False, True, False, True]
    assert made.fetched(loading, "3") == []
    assert made.end_load([], IMAGE) == []
    assert made.find(jobs[2].request) is None


def test_two_addresses_of_one_file_become_one_job() -> None:
    made = queue(places=9, downloads=9)
    slow, quick = Waiter(Priority.BATCH), Waiter(Priority.PREDICT)
    first = made.join(slow, request("b"))
    token: Any = Future()
    other = made.join(quick, request("c"))
    other.results.append(token)
    loads = [made.next_to_load(), made.next_to_load()]
    assert [load[0] for load in loads] == [other, first]
    assert made.fetched(loads[1], "2") == [first]
    assert made.fetched(loads[0], "2") == []
    assert made.find(request("c")) is first
    assert (first.priority, first.results) == (Priority.PREDICT, [token])
    assert made.join(slow, request("c")) is first
    made.finish(first)
    assert made.find(request("c")) is made.find(request("b")) is None


def test_too_much_is_refused_unless_it_is_interactive() -> None:
    made = queue(size=2)
    for address in "ab":
        made.join(Waiter(Priority.PREDICT), request(address))
    with pytest.raises(BusyError, match="2 images are waiting"):
        made.join(Waiter(Priority.PREDICT), request("c"))
    assert made.join(Waiter(Priority.PREDICT), request("a"))
    assert made.join(Waiter(Priority.INTERACTIVE), request("c"))


def test_a_batch_lingers_for_company() -> None:
    made = queue(places=9, downloads=9)
    for address in "ab":
        made.join(Waiter(Priority.BATCH), request(address))
    make_ready(made)
    threading.Timer(0.1, make_ready, [made]).start()
    assert len(made.take(2, linger=10.0)) == 2
    made.join(Waiter(Priority.INTERACTIVE), request("c"))
    make_ready(made)
    assert len(made.take(2, linger=10.0)) == 1


def test_closing_cancels_those_who_wait() -> None:
    made = queue()
    job = made.join(Waiter(Priority.BATCH), request("a"))
    made.close()
    assert job.segmentation.cancelled()
    assert made.find(request("a")) is None


def test_changing_priorities_for_hours_takes_no_memory() -> None:
    made, waiter = queue(), Waiter(Priority.BATCH)
    jobs = [made.join(waiter, request(address)) for address in "ab"]
    for number in range(5000):
        made.set_priority(waiter, Priority(number % 3))
    assert sum(map(len, made._heaps.values())) < 1100
    assert make_ready(made, 2) == jobs

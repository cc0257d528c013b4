from __future__ import annotations

import asyncio

from ml_backend.serving.engine import Priority
from ml_backend.serving.turnstile import Ticket, Turnstile


def test_turnstile_lets_the_urgent_through_first() -> None:
    async def run() -> list[str]:
        turnstile, order, gate = Turnstile(1, extra=1), [], asyncio.Event()

        async def work(name: str, ticket: Ticket) -> None:
            async with turnstile.pass_through(ticket):
                order.append(name)
                if name == "holder":
                    await gate.wait()

        late = Ticket(Priority.PREDICT)
        tasks = [asyncio.create_task(work("holder", Ticket(Priority.PREDICT)))]
        await asyncio.sleep(0)
        tasks += [
            asyncio.create_task(work("late", late)),
            asyncio.create_task(work("first", Ticket(Priority.PREDICT))),
            asyncio.create_task(work("second", Ticket(Priority.PREDICT))),
        ]
        await asyncio.sleep(0)
        late.priority = Priority.BATCH  # its request has been answered without it
        tasks.append(asyncio.create_task(work("click", Ticket(Priority.INTERACTIVE))))
        await asyncio.sleep(0.01)
        gate.set()
        await asyncio.gather(*tasks)
        assert turnstile.waiting == 0
        return order

    assert asyncio.run(run()) == ["holder", "click", "first", "second", "late"]


def test_turnstile_keeps_its_places_when_waiters_are_cancelled() -> None:
    async def run() -> int:
        turnstile, inside, most = Turnstile(2, extra=0), 0, 0

        async def work(pause: float) -> None:
            nonlocal inside, most
            async with turnstile.pass_through(Ticket(Priority.PREDICT)):
                inside += 1
                most = max(most, inside)
                try:
                    await asyncio.sleep(pause)
                finally:
                    inside -= 1

        tasks = [asyncio.create_task(work(0.001 * (i % 3))) for i in range(60)]
        for index, task in enumerate(tasks):
            await asyncio.sleep(0)
            if index % 4 == 0:
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        inside = 0
        await asyncio.wait_for(asyncio.gather(work(0), work(0)), 5)
        return most

    assert asyncio.run(run()) == 2

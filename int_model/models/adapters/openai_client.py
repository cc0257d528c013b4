"""Requests to an OpenAI-compatible server: retried with jitter, bounded in number, never logged with their bodies."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import httpx
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from int_model.models.errors import TransientModelError
from int_model.models.profile import OpenAIRole

T = TypeVar("T")
R = TypeVar("R")
_AGAIN = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
_LONGEST_WAIT = 30.0


class ServerRefusalError(RuntimeError):
    """The server understood and said no: the key, the model's name or the request itself. Not worth a second try."""


class OpenAIClient:
    """One model on one server. Safe for several threads.

    Args:
        settings: where it is, and how patient to be.
        wait: a tenacity wait; for tests.
    """

    def __init__(self, settings: OpenAIRole, wait: Any = None) -> None:
        self._settings = settings
        self._wait = wait or wait_random_exponential(multiplier=0.5, max=_LONGEST_WAIT)
        key = os.environ.get(settings.api_key_env, "")
        self._root = settings.url.rstrip("/").removesuffix("/v1")
        self._client = httpx.Client(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(settings.timeout_s, connect=min(10.0, settings.timeout_s)),
            limits=httpx.Limits(max_connections=settings.concurrency),
        )

    def all(self, work: Callable[[T], R], items: Sequence[T]) -> list[R]:
        """``work`` for every item, at most ``concurrency`` at a time, the results in order.

        The first error ends it: what has not begun is not begun.
        """
        if not items:
            return []
        with ThreadPoolExecutor(max_workers=min(self._settings.concurrency, len(items))) as pool:
            futures = [pool.submit(work, item) for item in items]
            try:
                return [future.result() for future in futures]
            finally:
                for future in futures:
                    future.cancel()

    def post(self, path: str, body: dict[str, Any], read: Callable[[Any], R]) -> R:
        """``read`` of the JSON that the server answers.

        Raises:
            TransientModelError: no whole answer after ``attempts`` tries (no connection, time-out, 429, 5xx, half an
                answer, an answer that ``read`` cannot read: it raised ``KeyError``, ``IndexError``, ``TypeError`` or
                ``ValueError``).
            ServerRefusalError: any other 4xx.
        """
        retrying = Retrying(
            retry=retry_if_exception_type(TransientModelError),
            stop=stop_after_attempt(self._settings.attempts),
            wait=self._delay,
            reraise=True,
        )
        return retrying(self._once, path, {"model": self._settings.model, **body}, read)

    def _delay(self, state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        asked = getattr(error, "retry_after", None)
        return float(self._wait(state)) if asked is None else min(float(asked), _LONGEST_WAIT)

    def _once(self, path: str, body: dict[str, Any], read: Callable[[Any], R]) -> R:
        where = f"the model server at {self._settings.url}"
        try:
            answer = self._client.post(f"{self._root}{path}", json=body)
        except httpx.HTTPError as error:
            raise TransientModelError(f"{where} cannot be reached or did not answer ({type(error).__name__})") from None
        if answer.status_code in _AGAIN:
            raise TransientModelError(
                f"{where} answered {answer.status_code}", retry_after=_seconds(answer.headers.get("Retry-After"))
            )
        if answer.status_code >= 400:
            raise ServerRefusalError(self._refusal(answer))
        try:
            return read(answer.json())
        except (json.JSONDecodeError, KeyError, IndexError, TypeError, ValueError) as error:
            raise TransientModelError(f"{where} gave an answer that is not whole ({type(error).__name__})") from None

    def _refusal(self, answer: httpx.Response) -> str:
        where, status = self._settings.url, answer.status_code
        if status in (401, 403):
            return f"the model server at {where} wants a key: put it into the variable {self._settings.api_key_env}"
        if status == 404:
            return f"the model server at {where} has no model '{self._settings.model}' or no {answer.request.url.path}"
        try:
            told = answer.json()
            told = told.get("error", told)
            reason = str(told.get("message", "") if isinstance(told, dict) else "")
        except (ValueError, AttributeError):
            reason = ""
        # A message may quote the request; an image in it would be one long word.
        words = " ".join(word for word in reason.split() if len(word) < 60)[:200]
        return f"the model server at {where} refused the request ({status}): {words or 'no reason given'}"


def _seconds(header: str | None) -> float | None:
    try:
        return max(0.0, float(header)) if header is not None else None
    except ValueError:
        return None

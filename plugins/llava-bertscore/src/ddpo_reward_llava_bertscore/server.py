"""A vision-language model behind an OpenAI-compatible server: vLLM, SGLang, `transformers serve` and others.

Pictures travel as data URLs in POST …/v1/chat/completions, some requests at a time. Time-outs, broken
connections and the statuses 429 and 5xx are tried again, a bounded number of times; then one `RewardError`
says so.
"""

from __future__ import annotations

import base64
import io
import random
import threading
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, CancelledError, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import httpx2

from ddpo_core.errors import RewardError, UsageError

if TYPE_CHECKING:
    from PIL.Image import Image

LONGEST_PAUSE = 30.0  # seconds
JPEG_QUALITY = 80  # what DDPO's code sent to its LLaVA server
COMPLETIONS = "/chat/completions"


@dataclass(frozen=True)
class Failure:
    """A request that may succeed if it is sent again."""

    what: str
    wait_at_least: float = 0.0  # seconds, where the server names them


class Server:
    """Answers with the model behind an endpoint."""

    def __init__(
        self,
        reward: str,
        endpoint: str,
        model: str,
        *,
        api_key: str | None = None,
        max_new_tokens: int = 64,
        concurrency: int = 8,
        timeout: float = 60.0,
        retries: int = 3,
        image_format: Literal["png", "jpeg"] = "png",
        transport: httpx2.BaseTransport | None = None,
    ) -> None:
        """`transport` takes the network's place in tests. Raises `UsageError` for what is no URL."""
        self.reward = reward
        self.url = completions_url(reward, endpoint)
        self.model = model
        self.max_new_tokens = max_new_tokens
        self.concurrency = concurrency
        self.timeout = timeout
        self.retries = retries
        self.image_format = image_format
        self.client = httpx2.Client(
            headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
            timeout=httpx2.Timeout(timeout, pool=None),
            limits=httpx2.Limits(max_connections=concurrency),
            trust_env=self.url.host not in ("localhost", "127.0.0.1", "::1"),  # no proxy for this machine
            transport=transport,
        )
        self._jitter = random.Random()

    def __call__(self, images: Sequence[Image], questions: Sequence[str]) -> list[str]:
        """N answers in order, `concurrency` requests at a time. Raises the first `RewardError`."""
        stop = threading.Event()
        with ThreadPoolExecutor(min(self.concurrency, max(1, len(images)))) as pool:
            requests = [
                pool.submit(self._answer_unless, stop, image, question)
                for image, question in zip(images, questions, strict=True)
            ]
            try:
                wait(requests, return_when=FIRST_EXCEPTION)
            finally:  # also on Ctrl-C
                stop.set()
                pool.shutdown(wait=False, cancel_futures=True)
        return _results(requests)

    def close(self) -> None:
        self.client.close()

    def _answer_unless(self, stop: threading.Event, image: Image, question: str) -> str:
        """One answer. A request that fails sets `stop`, which ends the others with `CancelledError`."""
        try:
            return self._answer(stop, image, question)
        except RewardError:
            stop.set()
            raise

    def _answer(self, stop: threading.Event, image: Image, question: str) -> str:
        """One answer, in 1 + `retries` tries. Raises `RewardError`; `CancelledError` once `stop` is set."""
        if stop.is_set():
            raise CancelledError
        body = self._request(image, question)
        begun = time.monotonic()
        paused = 0.0
        for attempt in range(self.retries + 1):
            outcome = self._post(body)
            if isinstance(outcome, str):
                return outcome
            if attempt < self.retries:
                pause = self._pause(attempt, outcome)
                if stop.wait(pause):
                    raise CancelledError
                paused += pause
        raise self._gave_up(outcome, time.monotonic() - begun, paused)

    def _request(self, image: Image, question: str) -> dict[str, object]:
        content = [
            {"type": "image_url", "image_url": {"url": data_url(image, self.image_format)}},
            {"type": "text", "text": question},
        ]
        return {
            "model": self.model,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": self.max_new_tokens,
            "temperature": 0.0,
        }

    def _post(self, body: dict[str, object]) -> str | Failure:
        """The answer, or why the request may be sent again. Raises `RewardError` for what will not mend."""
        try:
            response = self.client.post(self.url, json=body)
        except httpx2.TimeoutException:
            return Failure(f"no answer within {self.timeout:g} s")
        except httpx2.TransportError as error:
            return Failure(" ".join(f"{type(error).__name__}: {error}".split()))
        if response.status_code == 429 or response.status_code >= 500:
            return Failure(_status(response), _seconds(response.headers.get("retry-after")))
        if response.status_code != 200:
            raise self._refused(response)
        return self._text(response)

    def _text(self, response: httpx2.Response) -> str:
        """The text of a chat completion; "" where the model said nothing."""
        try:
            text = response.json()["choices"][0]["message"].get("content")
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise RewardError(
                f"reward '{self.reward}': {self.url} expects to answer with a chat completion, got"
                f" {_excerpt(response)!r}",
                hint="endpoint takes the URL of an OpenAI-compatible server, such as http://127.0.0.1:8000",
            ) from error
        return str(text or "").strip()

    def _pause(self, attempt: int, failure: Failure) -> float:
        """Seconds: 1, 2, 4, … less up to a half, so that many clients do not come back at one time."""
        pause = min(2.0**attempt, LONGEST_PAUSE) * self._jitter.uniform(0.5, 1.0)
        return min(max(pause, failure.wait_at_least), LONGEST_PAUSE)

    def _gave_up(self, last: Failure, seconds: float, paused: float) -> RewardError:
        tries = f"{self.retries + 1} tries" if self.retries else "1 try"
        return RewardError(
            f"reward '{self.reward}': the server at {self.url} did not answer: {tries} in {seconds:.1f} s"
            f" ({paused:.1f} s of them pauses); last: {last.what}",
            hint="see that the server runs, then `ddpo train --resume RUN` goes on from the last checkpoint;"
            f" to wait longer: {self.reward},retries={max(8, 2 * self.retries)}",
        )

    def _refused(self, response: httpx2.Response) -> RewardError:
        remedies = {
            401: "the server wants a key: api_key_env=NAME, an environment variable that holds it",
            403: "the key in api_key_env= may not use this model",
            404: f"is {self.url} right, and vlm={self.model} the model's name at the server?",
        }
        return RewardError(
            f"reward '{self.reward}': {self.url} refused the request for model {self.model}:"
            f" {_status(response)}",
            hint=remedies.get(response.status_code, "vlm= must be the model's name at the server"),
        )


def completions_url(reward: str, endpoint: str) -> httpx2.URL:
    """…/v1/chat/completions of a server, whose URL may be given with or without its last parts."""
    try:
        url = httpx2.URL(endpoint)
    except httpx2.InvalidURL:
        url = httpx2.URL("")
    if url.scheme not in ("http", "https") or not url.host:
        raise UsageError(
            f"reward '{reward}': endpoint expects the URL of a server, got {endpoint!r}",
            hint="such as endpoint=http://127.0.0.1:8000",
        )
    path = url.path.rstrip("/").removesuffix(COMPLETIONS)
    version = "" if path.endswith("/v1") else "/v1"
    return url.copy_with(path=f"{path}{version}{COMPLETIONS}")


def data_url(image: Image, image_format: Literal["png", "jpeg"]) -> str:
    """The picture as a data URL: PNG, or JPEG of quality 80."""
    file = io.BytesIO()
    image.save(file, image_format.upper(), **({"quality": JPEG_QUALITY} if image_format == "jpeg" else {}))
    return f"data:image/{image_format};base64,{base64.b64encode(file.getvalue()).decode()}"


def _results(requests: Sequence[Future[str]]) -> list[str]:
    """All answers. Raises what made a request fail rather than what that failure cancelled."""
    errors = [request.exception() for request in requests if not request.cancelled()]
    for error in errors:
        if error is not None and not isinstance(error, CancelledError):
            raise error
    return [request.result() for request in requests]


def _status(response: httpx2.Response) -> str:
    return f"{response.status_code} {response.reason_phrase}: {_excerpt(response)}".rstrip(": ")


def _excerpt(response: httpx2.Response) -> str:
    """The beginning of what the server said, on one line."""
    text = " ".join(response.text.split())
    return text if len(text) <= 200 else f"{text[:200]}…"


def _seconds(retry_after: str | None) -> float:
    """A Retry-After header in seconds; 0 for none, or for a date."""
    return float(retry_after) if retry_after and retry_after.isdecimal() else 0.0

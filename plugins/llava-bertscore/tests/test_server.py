"""A server is asked some requests at a time, again where that may help, and no longer than was said."""

from __future__ import annotations

import base64
import io
import json
import threading
import time

import httpx2
import numpy as np
import pytest
from ddpo_reward_llava_bertscore import server as module
from ddpo_reward_llava_bertscore.server import Server, completions_url, data_url
from PIL import Image

from ddpo_core import RewardError, UsageError
from ddpo_core.judges import to_pil
from ddpo_core.testing import example_images

PICTURES = to_pil(example_images(6, 16))
QUESTIONS = [f"question {index}" for index in range(6)]


def completion(text: str | None) -> httpx2.Response:
    return httpx2.Response(200, json={"choices": [{"message": {"role": "assistant", "content": text}}]})


def question_in(request: httpx2.Request) -> str:
    return json.loads(request.content)["messages"][0]["content"][1]["text"]


def server(reply, endpoint="http://judge:8000", **options) -> Server:
    return Server("align", endpoint, "some/model", transport=httpx2.MockTransport(reply), **options)


@pytest.fixture
def quick(monkeypatch):
    """No pause is longer than a hundredth of a second."""
    monkeypatch.setattr(module, "LONGEST_PAUSE", 0.01)


def test_a_request_is_a_chat_completion_with_the_picture_in_it():
    seen = []

    def reply(request):
        seen.append(request)
        return completion(" a cat \n")

    assert server(reply, api_key="secret", max_new_tokens=7)(PICTURES[:1], ["what?"]) == ["a cat"]
    (request,) = seen
    assert str(request.url) == "http://judge:8000/v1/chat/completions"
    assert request.headers["authorization"] == "Bearer secret"
    body = json.loads(request.content)
    assert (body["model"], body["max_tokens"], body["temperature"]) == ("some/model", 7, 0)
    picture, question = body["messages"][0]["content"]
    assert question == {"type": "text", "text": "what?"}
    sent = Image.open(
        io.BytesIO(base64.b64decode(picture["image_url"]["url"].removeprefix("data:image/png;base64,")))
    )
    assert np.array_equal(np.asarray(sent), np.asarray(PICTURES[0]))


def test_jpeg_is_of_quality_80():
    file = io.BytesIO()
    PICTURES[3].save(file, "JPEG", quality=80)
    assert (
        data_url(PICTURES[3], "jpeg")
        == "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
    )


def test_without_a_key_none_is_sent():
    assert "authorization" not in server(lambda request: completion("a cat")).client.headers


@pytest.mark.parametrize(
    "endpoint",
    [
        "http://judge:8000",
        "http://judge:8000/",
        "http://judge:8000/v1",
        "http://judge:8000/v1/chat/completions",
    ],
)
def test_an_endpoint_may_be_given_in_part(endpoint):
    assert str(completions_url("align", endpoint)) == "http://judge:8000/v1/chat/completions"


def test_an_endpoint_behind_a_prefix_keeps_it():
    assert str(completions_url("align", "https://judges/llava")) == "https://judges/llava/v1/chat/completions"


@pytest.mark.parametrize("endpoint", ["judge:8000", "localhost", "ftp://judge", "http://", "", "http://a:b"])
def test_what_is_no_url_is_refused(endpoint):
    with pytest.raises(UsageError, match="endpoint expects the URL of a server, got"):
        completions_url("align", endpoint)


def test_answers_keep_their_order_whichever_comes_first():
    def reply(request):
        question = question_in(request)
        time.sleep(0.05 - 0.01 * int(question[-1]))
        return completion(f"answer to {question}")

    assert server(reply)(PICTURES, QUESTIONS) == [f"answer to {question}" for question in QUESTIONS]


@pytest.mark.parametrize("concurrency", [1, 3])
def test_so_many_requests_run_at_a_time_and_no_more(concurrency):
    running, most, lock = 0, 0, threading.Lock()

    def reply(request):
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.03)
        with lock:
            running -= 1
        return completion("a cat")

    assert len(server(reply, concurrency=concurrency)(PICTURES, QUESTIONS)) == 6
    assert most == concurrency


@pytest.mark.parametrize(
    "failure",
    [
        httpx2.ConnectError("refused"),
        httpx2.ReadError("reset"),
        httpx2.RemoteProtocolError("disconnected"),
        httpx2.ReadTimeout("slow"),
        429,
        500,
        503,
    ],
    ids=str,
)
def test_what_may_mend_is_asked_again(failure, quick):
    tries = []

    def reply(request):
        tries.append(request)
        if len(tries) <= 2:
            if isinstance(failure, Exception):
                raise failure
            return httpx2.Response(failure)
        return completion("a cat")

    assert server(reply)(PICTURES[:1], QUESTIONS[:1]) == ["a cat"]
    assert len(tries) == 3


@pytest.mark.parametrize(
    ("status", "hint"),
    [
        (400, "vlm="),
        (401, "api_key_env=NAME"),
        (403, "api_key_env="),
        (404, "vlm=some/model"),
        (422, "vlm="),
        (301, "vlm="),
    ],
)
def test_what_will_not_mend_is_asked_once(status, hint):
    tries = []

    def reply(request):
        tries.append(request)
        return httpx2.Response(status, json={"detail": "no such\nmodel"})

    with pytest.raises(
        RewardError, match=rf"judge:8000/v1/chat/completions refused .* some/model: {status} "
    ) as caught:
        server(reply, api_key="secret")(PICTURES[:1], QUESTIONS[:1])
    assert len(tries) == 1
    assert hint in caught.value.hint and "\n" not in str(caught.value) and "secret" not in str(caught.value)


def test_a_server_that_is_gone_is_one_error_that_says_everything(quick):
    tries = []

    def reply(request):
        tries.append(request)
        raise httpx2.ConnectError("[Errno 111] Connection refused")

    with pytest.raises(RewardError) as caught:
        server(reply, retries=2, concurrency=1)(PICTURES, QUESTIONS)
    assert len(tries) == 3  # the other five were not sent
    message = str(caught.value)
    assert message.startswith(
        "reward 'align': the server at http://judge:8000/v1/chat/completions did not answer: 3 tries in 0."
    )
    assert (
        message.endswith("last: ConnectError: [Errno 111] Connection refused")
        and "s of them pauses)" in message
    )
    assert "ddpo train --resume" in caught.value.hint and "align,retries=8" in caught.value.hint


def test_one_failure_ends_the_pauses_of_the_others():
    def reply(request):
        return httpx2.Response(401 if question_in(request) == "question 5" else 503)

    start = time.monotonic()
    with pytest.raises(RewardError, match=r"refused .* 401"):
        server(reply, retries=5)(PICTURES, QUESTIONS)
    assert time.monotonic() - start < 0.5


def test_pauses_double_with_jitter_of_their_own_and_end_at_half_a_minute():
    import random

    state = random.getstate()
    asked = server(lambda request: completion(""))
    for attempt, longest in enumerate([1, 2, 4, 8, 16, 30, 30]):
        pauses = [asked._pause(attempt, module.Failure("")) for _ in range(50)]
        assert longest / 2 <= min(pauses) < max(pauses) <= longest
    assert asked._pause(0, module.Failure("", wait_at_least=7)) == 7
    assert asked._pause(0, module.Failure("", wait_at_least=3600)) == 30
    assert random.getstate() == state


def test_a_server_may_say_how_long_to_wait(quick, monkeypatch):
    monkeypatch.setattr(module, "LONGEST_PAUSE", 0.2)
    replies = iter([httpx2.Response(429, headers={"retry-after": "1"}), completion("a cat")])
    start = time.monotonic()
    assert server(lambda request: next(replies))(PICTURES[:1], QUESTIONS[:1]) == ["a cat"]
    assert time.monotonic() - start >= 0.2


def test_a_real_server_that_says_nothing_runs_into_the_time_out(quick):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as deaf:
        asked = Server("align", f"http://127.0.0.1:{deaf.getsockname()[1]}", "m", timeout=0.1, retries=1)
        with pytest.raises(RewardError, match=r"2 tries in 0\.\d s .*; last: no answer within 0.1 s"):
            asked(PICTURES[:1], QUESTIONS[:1])


def test_a_port_where_nobody_listens_is_a_refused_connection(quick):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(RewardError, match=r"1 try in .* Connection refused"):
        Server("align", f"http://127.0.0.1:{port}", "m", retries=0)(PICTURES[:1], QUESTIONS[:1])


@pytest.mark.parametrize(
    "reply",
    [
        httpx2.Response(200, text="<html>welcome</html>"),
        httpx2.Response(200, json={"error": "out of memory"}),
        httpx2.Response(200, json={"choices": []}),
        httpx2.Response(200, json=["a", "cat"]),
        httpx2.Response(200, json={"choices": [{"text": "a cat"}]}),
        httpx2.Response(200, content=b"\xff\xfe{"),
    ],
    ids=lambda reply: reply.text[:12],
)
def test_an_answer_that_is_no_chat_completion_is_quoted(reply):
    with pytest.raises(RewardError, match="expects to answer with a chat completion, got '") as caught:
        server(lambda request: reply)(PICTURES[:1], QUESTIONS[:1])
    assert "OpenAI-compatible" in caught.value.hint


@pytest.mark.parametrize("nothing", ["", "  \n", None])
def test_a_model_that_says_nothing_answers_nothing(nothing):
    assert server(lambda request: completion(nothing))(PICTURES[:1], QUESTIONS[:1]) == [""]


def test_no_pictures_are_no_requests():
    assert server(lambda request: pytest.fail("a request was sent"))([], []) == []

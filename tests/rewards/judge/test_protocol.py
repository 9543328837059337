"""Requests as request bodies, and what is read of responses."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.judge.messages import JudgeRefused, JudgeRequest
from rewards.judge.protocol import advice, chat_request, read_completion, read_tokens, shortened
from rewards.judge.retries import ServerFault
from tests.judges.pools import PNG

PLAIN = JudgeRequest(parts=("hello",), max_tokens=8)
DIGITS = JudgeRequest(parts=("hello",), max_tokens=1, top_logprobs=20, allowed_token_ids=(15, 16))


def completion(**choice):
    return json.dumps({"choices": [{"message": {"content": "4"}, "finish_reason": "stop", **choice}]}).encode()


def token(name, logprob, **more):
    return {"token": name, "logprob": logprob, "bytes": None, **more}


def test_images_travel_as_data_and_only_what_is_asked_for_is_sent():
    body = chat_request(JudgeRequest(parts=(PNG, "what", PNG), max_tokens=9, seed=3), "judge")
    content = body["messages"][0]["content"]
    assert [part["type"] for part in content] == ["image_url", "text", "image_url"]
    head, data = content[0]["image_url"]["url"].split(",")
    assert head == "data:image/png;base64" and base64.b64decode(data) == PNG
    assert set(body) == {"model", "messages", "max_tokens", "temperature", "top_p", "seed"}
    assert (body["model"], body["max_tokens"], body["seed"]) == ("judge", 9, 3)


def test_a_schema_goes_into_response_format_and_digits_into_vllms_fields():
    schema = {"type": "object", "properties": {}}
    body = chat_request(JudgeRequest(parts=("x",), max_tokens=9, json_schema=schema, top_k=20), "judge")
    assert body["response_format"]["json_schema"]["schema"] == schema and body["top_k"] == 20
    body = chat_request(DIGITS, "judge")
    assert body["allowed_token_ids"] == [15, 16] and body["return_tokens_as_token_ids"] is True
    assert body["logprobs"] is True and body["top_logprobs"] == 20 and body["logprob_token_ids"] == [15, 16]
    assert "logprob_token_ids" not in chat_request(JudgeRequest(parts=("x",), max_tokens=1, top_logprobs=20), "judge")


def test_the_first_tokens_log_probabilities_by_token_id():
    top = [token("token_id:19", -0.1), token("token_id:7", -3.0)]
    content = [token("token_id:15", -4.0, top_logprobs=top), token("token_id:2", 0.0, top_logprobs=[])]
    text, finish, logprobs, _ = read_completion(completion(logprobs={"content": content}), DIGITS)
    assert (text, finish, logprobs) == ("4", "stop", {15: -4.0, 19: -0.1, 7: -3.0})


def test_a_response_may_have_no_text():
    assert read_completion(completion(message={"content": None}), PLAIN) == ("", "stop", {}, "content")
    empty = completion(message={"content": ""}, logprobs={"content": []})
    assert read_completion(empty, DIGITS) == ("", "stop", {}, "content")


def test_what_servers_may_leave_out_or_set_to_null_is_no_fault():
    message = {"message": {"content": "4"}}
    assert read_completion(json.dumps({"choices": [message]}).encode(), PLAIN) == ("4", "", {}, "content")
    assert read_completion(completion(finish_reason=None, logprobs=None), PLAIN) == ("4", "", {}, "content")
    for first in (token("token_id:15", -0.5), token("token_id:15", -0.5, top_logprobs=None)):
        body = json.dumps({"choices": [{**message, "logprobs": {"content": [first]}}]}).encode()
        assert read_completion(body, DIGITS) == ("4", "", {15: -0.5}, "content")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"null",
        b"[]",
        b"{}",
        b'{"choices": []}',
        b'{"choices": [{}]}',
        b'{"error": "engine dead"}',
        b'{"choices": [{"message": {"content": 4}, "finish_reason": "stop"}]}',
        b"\xff\xfe",
    ],
)
def test_what_is_no_completion_is_a_fault_of_the_server(body):
    with pytest.raises(ServerFault, match="not a chat completion"):
        read_completion(body, PLAIN)


@given(
    st.binary(max_size=80)
    | st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["choices", "message", "content", "finish_reason", "logprobs", "token"]),
                inner,
                max_size=3,
            )
        ),
    ).map(lambda value: json.dumps(value).encode())
)
def test_any_body_is_a_response_or_a_fault(body):
    for request in (PLAIN, DIGITS):
        try:
            text, _, logprobs, _ = read_completion(body, request)
        except (ServerFault, JudgeRefused):
            continue
        assert isinstance(text, str) and isinstance(logprobs, dict)


@pytest.mark.parametrize(
    ("logprobs", "why"),
    [
        (None, "sends no log-probabilities"),
        ({"content": [token("4", -0.1, top_logprobs=[])]}, "by their text"),
        ({"content": [token("token_id:4x", -0.1, top_logprobs=[])]}, "by their text"),
    ],
)
def test_log_probabilities_that_cannot_be_used_are_refused(logprobs, why):
    with pytest.raises(JudgeRefused, match=why):
        read_completion(completion(logprobs=logprobs), DIGITS)


def test_tokens():
    assert read_tokens(b'{"count": 2, "tokens": [15, 16], "token_strs": null}') == (15, 16)
    with pytest.raises(ServerFault, match="without tokens"):
        read_tokens(b'{"detail": "?"}')


def test_what_a_server_said_is_one_short_line():
    assert shortened(b"  two\n\nlines\x00 ") == "two lines\x00"
    assert len(shortened("x" * 10_000)) < 310
    assert shortened("") == "(nothing)"


@pytest.mark.parametrize(
    ("message", "text", "field"),
    [
        ({"content": None, "reasoning_content": "4"}, "4", "reasoning_content"),
        ({"content": "", "reasoning": "4"}, "4", "reasoning"),
        ({"content": " \n", "reasoning_content": "4", "reasoning": "4"}, "4", "reasoning_content"),
        ({"content": "4", "reasoning_content": "I think it is 5"}, "4", "content"),
        ({"content": [{"type": "text", "text": "4"}, {"type": "text", "text": "2"}]}, "42", "content"),
        ({"content": [], "reasoning": None}, "", "content"),
    ],
)
def test_a_text_is_found_in_whichever_field_a_server_files_it(message, text, field):
    found = read_completion(completion(message=message), PLAIN)
    assert (found.text, found.field) == (text, field)


@pytest.mark.parametrize(
    ("said", "what"),
    [
        ("The decoder prompt (length 9216) is longer than the maximum model length of 8192.", "--max-model-len"),
        ("This model's maximum context length is 4096 tokens. However, you requested 5000", "data.resolution"),
        ("response_format json_schema is not supported by this model", "a JSON schema"),
        ("no such thing", ""),
    ],
)
def test_a_refusal_comes_with_what_to_change(said, what):
    assert (what in advice(said)) if what else advice(said) == ""

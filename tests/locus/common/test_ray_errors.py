"""The message of an error that came through Ray."""

import pytest
from ray.exceptions import NodeDiedError, RayActorError, RayTaskError

from locus.common.ray_errors import cause_of, reason_of, sentence_of

CREATION = (
    "The actor died because of an error raised in its creation task, ray::Worker.__init__() (pid=1)\n"
    '  File "worker.py", line 1, in __init__\n'
    "ValueError: no such editor\n"
)


def raised(error: Exception) -> Exception:
    return RayTaskError("work", f"Traceback of {error}", error).as_instanceof_cause()


@pytest.mark.parametrize(
    ("error", "reason", "sentence"),
    [
        (ValueError("first\nsecond"), "ValueError: first", "first"),
        (ValueError(), "ValueError", "ValueError"),
        (raised(KeyError("x")), "KeyError: 'x'", "'x'"),
        (raised(ValueError("\n  the creation task\nmore")), "ValueError: the creation task", "the creation task"),
        (NodeDiedError("the node died\nlater"), "NodeDiedError: the node died", "the node died"),
        (
            RayActorError(error_msg=CREATION),
            "it could not start: ValueError: no such editor",
            "ValueError: no such editor",
        ),
        (RayActorError(error_msg="It was killed.\nBy whom?"), "RayActorError: It was killed.", "It was killed."),
    ],
)
def test_an_error_is_one_line(error, reason, sentence):
    assert (reason_of(error), sentence_of(error)) == (reason, sentence)


def test_what_a_process_raised_is_its_own_error():
    own = ValueError("mine")
    assert cause_of(raised(own)) is own and cause_of(own) is own

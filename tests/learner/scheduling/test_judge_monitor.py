"""What the judges' numbers say between two looks."""

from hypothesis import given
from hypothesis import strategies as st

from learner.reporting.notifications import JUDGE_FAILURES
from learner.scheduling.judge_monitor import JudgeMonitor, changes

COUNTS = st.fixed_dictionaries({name: st.integers(0, 5) for name in ("in_rotation", *JUDGE_FAILURES)})


def numbers(**judges: dict[str, int]) -> dict[str, float]:
    return {f"{judge}_{name}": float(value) for judge, values in judges.items() for name, value in values.items()}


@given(COUNTS, COUNTS)
def test_exactly_what_grew_and_a_changed_rotation_are_told(before, more):
    now = {name: count + more[name] * (name != "in_rotation") for name, count in before.items()}
    now["in_rotation"] = more["in_rotation"]
    still = {"in_rotation": 3, "unanswered": 1, "refused": 2, "bad": 3}
    found = changes(numbers(qwen_vl=before, editscore=still), numbers(qwen_vl=now, editscore=still))
    new = {name: more[name] for name in JUDGE_FAILURES}
    if any(new.values()) or before["in_rotation"] != now["in_rotation"]:
        assert found == [{"judge": "qwen_vl", "servers": now["in_rotation"], **new}]
    else:
        assert found == []


class Numbers:
    """A backend that only has statistics."""

    def __init__(self, *numbers: dict[str, float]) -> None:
        self.asked, self._numbers = 0, list(numbers)

    def pool_statistics(self) -> dict[str, float]:
        self.asked += 1
        return self._numbers.pop(0)


def test_each_change_is_told_once():
    healthy = {"in_rotation": 2, "unanswered": 0, "refused": 0, "bad": 0}
    ill = {**healthy, "in_rotation": 1, "unanswered": 4}
    looks = (healthy, healthy, ill, ill, {**ill, "in_rotation": 2})
    backend = Numbers(*(numbers(editscore=values) for values in looks))
    told = []
    watch = JudgeMonitor(backend, lambda event, **fields: told.append((event, fields)))
    for expected in (0, 1, 1, 2):
        assert watch.look()["editscore_in_rotation"] in (1, 2)
        assert len(told) == expected
    assert told[0] == ("judge_trouble", {"judge": "editscore", "servers": 1, "unanswered": 4, "refused": 0, "bad": 0})
    assert told[1][1]["servers"] == 2
    watch.glance()  # it has just looked
    assert backend.asked == 5


def test_without_judges_nothing_is_asked_again():
    backend = Numbers({})
    JudgeMonitor(backend, lambda event, **fields: None).glance()
    assert backend.asked == 1


def watched(*looks: tuple[int, int]) -> list[int]:
    """The faults that are reported of a cache that has so many, and is away or not, at the start and at each look."""
    told = []
    watch = JudgeMonitor(
        Numbers(*({"cache_faults": float(faults), "cache_away": float(away)} for faults, away in looks)),
        lambda event, **fields: told.append((event, fields["faults"])),
    )
    for _ in looks[1:]:
        watch.look()
    assert all(event == "cache_trouble" for event, _ in told)
    return [faults for _, faults in told]


def test_a_cache_that_fails_is_told_once_and_so_is_its_return():
    assert watched((0, 0), (2, 1), (9, 1), (9, 0), (9, 0), (10, 1)) == [2, 0, 1]


def test_a_cache_that_was_back_before_anybody_looked_is_told_as_that():
    assert watched((0, 0), (1, 0), (1, 0)) == [1, 0]


def test_a_cache_that_is_absent_from_the_start_is_told_of_and_its_return_too():
    assert watched((1, 1), (1, 1), (1, 0)) == [1, 0]

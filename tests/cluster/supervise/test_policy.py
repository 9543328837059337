"""When a supervisor tries again, and when it stops: properties over every end that a job can have."""

from hypothesis import given
from hypothesis import strategies as st

from cluster.supervise.policy import POLICY, Again, Ended, Stop, decide, is_retryable_exit
from configs import exits
from locus.common.restarts import RestartPolicy

codes = st.one_of(st.none(), st.integers(-64, 255))
limits = st.builds(
    RestartPolicy,
    restarts=st.integers(1, 20),
    first_delay=st.floats(0.1, 100),
    longest_delay=st.floats(100, 1000),
    settled=st.floats(1, 10_000),
)


def after(rules: RestartPolicy, ends: list[tuple[int | None, float]]) -> list[Again | Stop]:
    """What a supervisor decides on attempts that end so, one after the other, until it stops."""
    decided: list[Again | Stop] = []
    failures = 0
    for code, lasted in ends:
        decision = decide(rules, failures, Ended(code, ""), lasted)
        decided.append(decision)
        if isinstance(decision, Stop):
            break
        failures = decision.failures
    return decided


def test_the_ends_of_a_run_and_what_follows():
    def kind(code: int | None) -> type:
        return type(decide(POLICY, 0, Ended(code, ""), 1.0))

    again = [None, -9, -15, 137, 139, exits.RESUMABLE, exits.TERMINATED]
    never = [exits.DONE, exits.FAILED, exits.WRONG_REQUEST, exits.UNUSABLE, 126, 127, exits.INTERRUPTED]
    assert [kind(code) for code in again] == [Again] * len(again)
    assert [kind(code) for code in never] == [Stop] * len(never)


def test_a_done_run_ends_well_and_a_stopped_job_does_not():
    assert decide(POLICY, 0, Ended(0, ""), 1.0) == Stop(exits.DONE, "The run is done.")
    stopped = decide(POLICY, 0, Ended(None, "", stopped=True), 1.0)
    assert isinstance(stopped, Stop) and stopped.exit_code == exits.FAILED


@given(limits, codes, st.integers(0, 20), st.floats(0, 1e6))
def test_what_a_person_must_see_to_is_never_tried_again(rules, code, failures, lasted):
    decision = decide(rules, failures, Ended(code, ""), lasted)
    if not is_retryable_exit(code):
        assert isinstance(decision, Stop) and decision.exit_code == code


@given(limits, st.lists(st.sampled_from([None, -9, 137, exits.RESUMABLE]), min_size=25, max_size=30))
def test_short_failures_end_after_the_limit_with_growing_delays(rules, ends):
    decided = after(rules, [(code, 0.0) for code in ends])
    assert [type(one) for one in decided] == [Again] * rules.restarts + [Stop]
    assert decided[-1].exit_code == exits.RESUMABLE
    delays = [one.delay for one in decided[:-1]]
    assert delays == sorted(delays) and delays[0] == min(rules.first_delay, rules.longest_delay)
    assert max(delays) <= rules.longest_delay


@given(limits, st.lists(st.booleans(), max_size=40))
def test_an_attempt_that_found_its_feet_starts_the_count_anew(rules, long_lived):
    ends = [(None, rules.settled if lasting else 0.0) for lasting in long_lived]
    decided = after(rules, ends)
    row = 0
    for lasting, decision in zip(long_lived, decided, strict=False):
        row = 1 if lasting else row + 1
        assert isinstance(decision, Stop) == (row > rules.restarts)
        if isinstance(decision, Again):
            assert decision.failures == row and decision.delay == rules.delay(row)


@given(limits, st.integers(1, 10_000))
def test_a_delay_is_a_number_however_many_failures(rules, failures):
    assert 0 < rules.delay(failures) <= rules.longest_delay

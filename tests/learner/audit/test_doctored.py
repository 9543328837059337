"""A doctored event log does not pass, whether its digests were recomputed or not (F37)."""

import pytest

from tests.learner.audit.doctor import changed, forge, inserted, numbers, read, told, without, write


def scores_removed(events):
    return without(events, "scored")


def no_valid_scores(events):
    return changed(events, "scored", valid=0, invalid={"edit_psnr_failed": 3})


def valid_scores_out_of_nowhere(events):
    return changed(events, "scored", valid=2)


def two_steps_dropped(events):
    return [*events[: numbers(events, "step")[0] + 1], *events[numbers(events, "finished")[0] :]]


def the_end_dropped(events):
    return events[: numbers(events, "step")[0] + 1]


def another_process(events):
    return changed(events, "generated", 2, pid=4711)


def no_process_started(events):
    return without(events, "worker_started")


def ended_before_it_generated(events):
    where, pid = numbers(events, "generated")[1], events[numbers(events, "generated")[1]]["pid"]
    return inserted(
        events,
        where,
        {
            "seq": 0,
            "time": 0,
            "previous": "0" * 16,
            "event": "worker_lost",
            "pid": pid,
            "reason": "",
            "jobs": 0,
            "slot": 0,
            "again_in": None,
        },
    )


def no_modules(events):
    return changed(events, "published", 1, modules=0)


def other_modules(events):
    return changed(events, "published", 1, modules=3)


def one_fingerprint(events):
    first = events[numbers(events, "published")[0]]["fingerprint"]
    return [{**event, "fingerprint": first} if event["event"] == "published" else event for event in events]


def no_steps(events):
    return without(events, "step")


def no_checkpoints(events):
    return without(events, "checkpoint")


def no_measurements(events):
    return without(events, "evaluated")


def resumed_otherwise(events):
    began = {**events[0], "event": "resumed", "step": 2, "config_hash": "0" * 64, "staleness": 999}
    return inserted(events, numbers(events, "step")[1] + 1, began)


def other_code(events):
    code = {name: "0" * 32 for name in events[0]["code"]}
    began = {**events[0], "event": "resumed", "step": 2, "code": code}
    return inserted(events, numbers(events, "step")[1] + 1, began)


def slot_too_far(events):
    return renamed(events, "000001.001.0", "000001.009.0")


def seventh_attempt(events):
    return renamed(events, "000001.001.0", "000001.001.7")


def renamed(events, old, new):
    assert any(event.get("group") == old for event in events)
    return [{**event, "group": new} if event.get("group") == old else event for event in events]


def after_the_end(events):
    return [*events, {**events[numbers(events, "leased")[0]], "group": "000003.000.0", "version": 3}]


def unknown_event(events):
    return inserted(events, 9, {**events[9], "event": "blessed"})


def trained_twice(events):
    where = numbers(events, "trained")[0]
    return inserted(events, where + 1, events[where])


def counters_that_add_up(events):
    counters = {"leased": 9, "trained": 9, "rejected": 0, "requeued": 0, "in_flight": 0, "replayed": 0}
    return changed(events, "step", 1, counters=counters)


def too_old(events):
    return changed(events, "trained", 4, version=0)


def not_on_disk(events):
    return without(events, "spooled")


def one_task_for_all(events):
    first = events[numbers(events, "leased")[0]]["task"]
    return [{**event, "task": first} if event["event"] == "leased" else event for event in events]


def another_order(events):
    return changed(events, "started", seed=events[0]["seed"] + 1)


def trained_long_ago(events):
    return [{**event, "time": 1.0} if event["event"] == "trained" else event for event in events]


def times_backwards(events):
    times = [event["time"] for event in reversed(events)]
    return [{**event, "time": time} for event, time in zip(events, times, strict=True)]


def went_back(events):
    where = numbers(events, "step")[1] + 1
    return inserted(events, where, {**events[-1], "event": "rolled_back", "step": 0, "reason": ""})


def a_step_that_was_skipped(events):
    where = numbers(events, "step")[1]
    return inserted(events, where, {**events[-1], "event": "step_skipped", "step": 2, "in_a_row": 1})


DOCTORED = {
    scores_removed: ["group 000000.000.0 was trained on, but it was never scored"],
    no_valid_scores: ["group 000000.000.0 was trained on, but 0 of its candidates have all scores, rewards.min_valid"],
    valid_scores_out_of_nowhere: ["3 candidates, 2 with all scores, and 0 scores are missing, which does not add up"],
    two_steps_dropped: ["the run finished after 3 of 3 steps, but 1 were trained"],
    the_end_dropped: ["not finished: after 1 of 3 steps the last line is step; the process was killed, or goes on"],
    another_process: ["process 4711 generated group 000001.000.0, but no line says that it started and proved"],
    no_process_started: ["generated group 000000.000.0, but no line says that it started and proved its weights"],
    ended_before_it_generated: ["generated group 000000.001.0, but no line says that it started"],
    no_modules: ["modules: expected at least 1, got 0"],
    other_modules: ["version 1 acts on 3 modules, the one before it on 22"],
    one_fingerprint: [
        "version 1 has the same weights as version 0, although step 1 moved them",
        "version 3 has the same weights as version 2, although step 3 moved them",
    ],
    no_steps: ["the run goes on, but its own line is missing (after 1 steps)", "(after 2 steps)", "(after 3 steps)"],
    no_checkpoints: [
        "the checkpoint before the first step is missing",
        "its checkpoint is missing (after 2 steps)",
        "there is no line of its last checkpoint",
    ],
    no_measurements: [
        "the measurement of the base is missing",
        "its measurement is missing (after 2 steps)",
        "the measurement at the end is missing (after 3 steps)",
    ],
    resumed_otherwise: [
        "its configuration is 000000000000, that of the process before ",
        "cluster.staleness was 0 and is 999, but it is not among the keys that changed",
    ],
    other_code: ["'code.sources' was", "and --allow-changed names neither it nor what it belongs to"],
    slot_too_far: ["group 000001.009.0 has slot 9, but a step has 2 groups"],
    seventh_attempt: ["group 000001.001.7 is attempt 7, but there was none before it"],
    after_the_end: ["after finished expected resumed, got leased"],
    unknown_event: ["expected an event of learner.state.event_types.RECORDS, got 'blessed'"],
    trained_twice: ["slot 0 of step 0 was trained on twice: 000000.000.0 and 000000.000.0"],
    counters_that_add_up: ["step 2 does not count what the lines before it say: leased 9 instead of 4"],
    too_old: ["group 000002.000.0 was 2 steps old, the limit is 0"],
    not_on_disk: ["group 000000.000.0 was trained on, but never spooled"],
    one_task_for_all: ["group 000000.001.0 is for task ", "group 000002.001.0 is for task ", "in the run's order "],
    another_order: ["in the run's order task "],
    trained_long_ago: [" s before that of the line before it"],
    times_backwards: ["time ran backwards at "],
    went_back: ["the run went back to step 0, but no process ended because it diverged"],
    a_step_that_was_skipped: ["step 2 was skipped, but its gradient norm is "],
}


@pytest.mark.parametrize("kept", [forge, write], ids=["digests recomputed", "digests left"])
@pytest.mark.parametrize("doctored", DOCTORED, ids=lambda one: one.__name__)
def test_every_doctoring_is_named(doctored, kept, finished, tmp_path):
    events = read(finished)
    done = doctored(events)
    assert done != events
    said = told(kept(tmp_path, done))
    assert [sentence for sentence in DOCTORED[doctored] if sentence not in said] == [], said
    if kept is write and doctored is not the_end_dropped:
        assert "log: line " in said


def test_lines_that_were_cut_off_the_end_show_in_the_checkpoints_beside_the_log(finished, tmp_path):
    forge(tmp_path, the_end_dropped(read(finished)))
    (tmp_path / "checkpoints" / "step_000003").mkdir(parents=True)
    assert "checkpoints/ has one of step 3, but the lines tell of 1 steps" in told(tmp_path / "events.jsonl")


def test_the_copy_that_is_doctored_passes_as_it_is(finished, tmp_path):
    path = forge(tmp_path, read(finished))
    assert path.read_bytes() == (finished / "events.jsonl").read_bytes()
    assert told(path) == "finished after 3 of 3 steps"

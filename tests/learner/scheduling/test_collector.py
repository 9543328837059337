"""Whatever gets lost, doubled, mixed up or delayed: each step trains on its own groups, once, and the lease counters
balance."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.schema import RunConfig
from editing.task import NOT_FINITE
from learner.errors import RunFailed
from learner.reporting.reporter import Reporter
from learner.scheduling.active_run import Resumed
from learner.scheduling.collector import Collector
from learner.scheduling.ledger import staleness
from learner.scheduling.sampler import LeaseSampler
from learner.state.event_log import EventLog, read_events
from learner.state.spool import Spooled
from tests.learner.fake_backend import FakeBackend

TASKS = 7

FATES = ["ok", "lost", "late", "twice", "lost after", "unscored", "mixed", "foreign", "swapped", "spoiled"]
WAYS = ["taken", "taken", "lost", "spoiled"]


def config(steps=5, groups=3, stale=0, every=1, attempts=1000, faulty=0.0) -> RunConfig:
    return RunConfig.model_validate(
        {
            "sampler": {"group_size": 3},
            "algorithm": {"anchors": 2},
            "rewards": {"weights": {"background_psnr": 1.0}},
            "learner": {"steps": steps, "groups_per_step": groups},
            "cluster": {"staleness": stale, "publish_every": every, "max_attempts": attempts},
            "data": {"type": "manifest", "path": "none", "max_faulty_fraction": faulty},
        }
    )


def spared(fates: list[str]) -> list[str]:
    """The fates without the third `spoiled` and all after it: some tasks must remain."""
    places = [place for place, fate in enumerate(fates) if fate == "spoiled"]
    return fates[: places[2]] if len(places) > 2 else fates


def run(settings: RunConfig, backend: FakeBackend, path) -> Collector:
    with EventLog(path) as events:
        sampler = LeaseSampler(0, TASKS, settings.learner.groups_per_step)
        collector = Collector(settings, backend, sampler, Reporter(events, []), first_step=0)
        for step in range(settings.learner.steps):
            groups = collector.collect(step, lambda delivered: None)
            backend.update(meanwhile=collector.lease)
            collector.settle(step, groups)
            counters = collector.ledger.balance()
            assert counters.trained == (step + 1) * settings.learner.groups_per_step
            if (step + 1) % settings.cluster.publish_every == 0:
                collector.version = backend.publish().version
    return collector


@given(data=st.data(), stale=st.integers(0, 3), slots=st.integers(1, 5), groups=st.integers(1, 4))
def test_every_step_trains_on_its_own_groups_once(tmp_path_factory, data, stale, slots, groups):
    every = data.draw(st.integers(1, stale + 1))
    settings = config(groups=groups, stale=stale, every=every, faulty=1.0)
    faults = iter(data.draw(st.lists(st.sampled_from(FATES), max_size=40).map(spared)))
    losses = iter(data.draw(st.lists(st.sampled_from(WAYS), max_size=40).map(spared)))
    backend = FakeBackend(
        settings,
        choose=lambda n: data.draw(st.integers(0, n - 1)),
        fate=lambda lease: next(faults, "ok"),
        way=lambda lease: next(losses, "taken"),
        slots=slots,
    )
    path = tmp_path_factory.mktemp("run") / "events.jsonl"
    collector = run(settings, backend, path)

    lost_on_the_way = {name[:10] for way, name in backend.ways if way != "taken"}
    for step, consumed in enumerate(backend.consumed[:-1]):
        slots_trained = [delivered.lease.slot for delivered in consumed]
        assert sorted(slots_trained) == list(range(groups))
        if stale == 0 and not {f"{step:06d}.{slot:03d}" for slot in range(groups)} & lost_on_the_way:
            assert slots_trained == list(range(groups))
        for delivered in consumed:
            assert delivered.lease.step == step and all(delivered.scores.valid)
            assert 0 <= staleness(step, delivered.generated.policy_version) <= stale
    trained = [d.lease.group_id for consumed in backend.consumed for d in consumed]
    assert len(set(trained)) == len(trained) == settings.learner.steps * groups
    assert len({lease.group_id for lease in backend.submitted}) == len(backend.submitted)
    # Noise comes twice only where the group that began from it was lost.
    seeds = [d.lease.seed for consumed in backend.consumed for d in consumed]
    assert len(set(seeds)) == len(seeds)

    # The lease counters, derived again from the event log alone.
    events = list(read_events(path))
    kinds = {
        kind: [e["group"] for e in events if e["event"] == kind]
        for kind in ("leased", "trained", "rejected", "requeued")
    }
    counters = collector.ledger.balance()
    assert (counters.leased, counters.trained, counters.rejected, counters.requeued) == tuple(map(len, kinds.values()))
    settled = kinds["trained"] + kinds["rejected"] + kinds["requeued"]
    assert len(set(settled)) == len(settled) and set(settled) | set() <= set(kinds["leased"])
    assert counters.in_flight == len(kinds["leased"]) - len(settled) == 0
    done = [fate for fate, *_ in backend.calls]
    assert counters.rejected == sum(done.count(f) for f in ("unscored", "mixed", "foreign", "swapped"))
    ways = [way for way, _ in backend.ways]
    undone = sum(done.count(fate) for fate in ("lost", "late", "spoiled"))
    assert counters.requeued == undone + sum(way != "taken" for way in ways)
    # A task that went bad is never leased again.
    skipped: set[int] = set()
    for event in events:
        if event["event"] == "task_skipped":
            skipped.add(event["task"])
        assert event["event"] != "leased" or event["task"] not in skipped
    assert skipped == set(collector.spoiled)


def test_at_staleness_0_the_order_of_arrival_changes_nothing(tmp_path):
    def consumed(choose):
        backend = FakeBackend(config(), choose=choose, slots=3)
        run(config(), backend, tmp_path / f"{id(choose)}.jsonl")
        return [[d.lease for d in step] for step in backend.consumed]

    assert consumed(lambda n: 0) == consumed(lambda n: max(0, n - 2))


def test_above_staleness_0_groups_are_taken_as_they_arrive_and_steps_are_leased_ahead(tmp_path):
    settings = config(stale=1)
    backend = FakeBackend(settings, choose=lambda n: max(0, n - 2), slots=5)
    run(settings, backend, tmp_path / "events.jsonl")
    assert [d.lease.slot for d in backend.consumed[0]] != [0, 1, 2]
    ages = [staleness(s, d.generated.policy_version) for s, step in enumerate(backend.consumed) for d in step]
    assert set(ages) == {0, 1}


def test_a_group_that_grew_too_old_is_redone(tmp_path):
    """By construction leases are never too old; a backend that delivers another version's group is caught."""
    settings = config(steps=4, groups=1)
    backend = FakeBackend(settings, choose=lambda n: 0)
    with EventLog(tmp_path / "events.jsonl") as events:
        collector = Collector(settings, backend, LeaseSampler(0, 7, 1), Reporter(events, []), first_step=0)
        collector.version = backend.version = 3
        backend.version = 2
        collector.version = 2  # the lease for step 3 goes out under version 2, although staleness is 0
        collector._next_step = 4
        collector._pending.extend(LeaseSampler(0, 7, 1).leases(3, 2))

        def choose(n):
            backend.version = collector.version = 3
            return 0

        backend.choose = choose
        (group,) = collector.collect(3, lambda delivered: None)
    assert group.lease.attempt == 1 and group.lease.policy_version == 3
    reasons = [e["reason"] for e in read_events(tmp_path / "events.jsonl") if e["event"] == "rejected"]
    assert reasons == ["stale: 1 steps old, cluster.staleness is 0"]


@pytest.mark.parametrize(
    ("fate", "reason"), [("lost", "killed"), ("unscored", "1 of 3 candidates"), ("not finite", NOT_FINITE)]
)
def test_a_task_that_fails_again_and_again_stops_the_run(tmp_path, fate, reason):
    settings = config(attempts=2)
    backend = FakeBackend(settings, choose=lambda n: 0, fate=lambda lease: fate if lease.slot == 1 else "ok")
    with pytest.raises(RunFailed, match=rf"redone 2 times \(cluster.max_attempts\).*{reason}"):
        run(settings, backend, tmp_path / "events.jsonl")
    tried = [lease for lease in backend.submitted if lease.slot == 1]
    assert sorted(lease.attempt for lease in tried) == [0, 1, 2]
    # What was lost is made again as it was; what could not be used is drawn anew.
    assert len({lease.seed for lease in tried}) == (1 if fate == "lost" else 3)


def test_what_is_redone_goes_first_because_the_step_waits_for_it(tmp_path):
    settings = config(steps=2, groups=4, stale=1)
    lost = iter(["lost"])
    backend = FakeBackend(settings, choose=lambda n: 0, fate=lambda lease: next(lost, "ok"), slots=2)
    run(settings, backend, tmp_path / "events.jsonl")
    names = [lease.group_id for lease in backend.submitted]
    assert names[:4] == ["000000.000.0", "000000.001.0", "000000.000.1", "000000.002.0"]


def test_a_group_is_let_go_of_once_the_learner_has_it(tmp_path):
    settings = config(steps=1)
    backend, seen = FakeBackend(settings, choose=lambda n: 0), []
    with EventLog(tmp_path / "events.jsonl") as events:
        collector = Collector(settings, backend, LeaseSampler(0, 7, 3), Reporter(events, []), first_step=0)
        taken = collector.collect(0, lambda delivered: seen.append(delivered.handle))
    assert seen == [delivered.handle for delivered in backend.consumed[0]] and None not in seen
    assert [delivered.handle for delivered in taken] == [None] * 3


def test_a_group_that_is_lost_on_its_way_to_the_learner_is_made_again(tmp_path):
    settings, lost = config(steps=1), iter(["taken", "lost"])
    backend = FakeBackend(settings, choose=lambda n: 0, way=lambda lease: next(lost, "taken"))
    collector = run(settings, backend, tmp_path / "events.jsonl")
    assert [d.lease.group_id for d in backend.consumed[0]] == ["000000.000.0", "000000.002.0", "000000.001.1"]
    life = [e["event"] for e in read_events(tmp_path / "events.jsonl") if e.get("group") == "000000.001.0"]
    assert life == ["leased", "scored", "requeued"] and collector.ledger.balance().requeued == 1


def test_after_a_resume_groups_are_taken_in_the_order_in_which_they_were_before(tmp_path, monkeypatch):
    """Which at staleness 0 is not that of their slots when one was lost on its way; another sum has other bits."""
    settings, lost = config(steps=2), iter(["taken", "lost"])
    before = FakeBackend(settings, choose=lambda n: 0, way=lambda lease: next(lost, "taken"))
    run(settings, before, tmp_path / "before.jsonl")
    spooled = [
        Spooled(
            tmp_path,
            place,
            one.lease,
            one.generated.task_id,
            one.generated.policy_version,
            one.generated.config_hash,
            1.0,
            "",
            (0,),
            one.scores,
        )
        for place, one in enumerate(before.consumed[0][:2])
    ]
    assert [one.lease.slot for one in spooled] == [0, 2]
    monkeypatch.setattr(Spooled, "load", lambda one: None)
    after = FakeBackend(settings, choose=lambda n: 0)
    with EventLog(tmp_path / "after.jsonl") as events:
        collector = Collector(
            settings, after, LeaseSampler(0, TASKS, 3), Reporter(events, []), first_step=0, resumed=Resumed(spooled)
        )
        collector.collect(0, lambda delivered: None)
    assert [one.lease.slot for one in after.consumed[0]] == [0, 2, 1]
    assert [lease.slot for lease in after.submitted[:1]] == [1]


def test_another_task_takes_the_place_of_one_that_went_bad(tmp_path):
    settings = config(steps=5, faulty=0.3)
    bad = LeaseSampler(0, TASKS, 3).leases(0, 0)[1].task_index
    backend = FakeBackend(
        settings, choose=lambda n: 0, fate=lambda lease: "spoiled" if lease.task_index == bad else "ok"
    )
    collector = run(settings, backend, tmp_path / "events.jsonl")
    assert [lease.group_id for lease in backend.submitted if lease.task_index == bad] == ["000000.001.0"]
    assert collector.spoiled == {bad: "its file is gone"}
    (skipped,) = [e for e in read_events(tmp_path / "events.jsonl") if e["event"] == "task_skipped"]
    assert (skipped["task"], skipped["reason"]) == (bad, "its file is gone")


@pytest.mark.parametrize(("faulty", "bad"), [(0.0, 1), (0.3, 3), (1.0, TASKS)])
def test_too_many_tasks_that_went_bad_stop_the_run(tmp_path, faulty, bad):
    settings = config(faulty=faulty)
    backend = FakeBackend(
        settings, choose=lambda n: 0, fate=lambda lease: "spoiled" if lease.task_index < bad else "ok"
    )
    with pytest.raises(RunFailed, match=rf"{bad} of 7 training tasks went bad .*max_faulty_fraction = {faulty:g} "):
        run(settings, backend, tmp_path / "events.jsonl")


def test_what_is_idle_meanwhile_is_called_when_nothing_arrives(tmp_path):
    settings = config(steps=1, groups=2)
    nothing = iter([True, False, True, True, False])
    backend = FakeBackend(settings, choose=lambda n: n - 1 if next(nothing, False) else 0)
    with EventLog(tmp_path / "events.jsonl") as events:
        collector = Collector(settings, backend, LeaseSampler(0, 7, 2), Reporter(events, []), first_step=0)
        idle = []
        collector.collect(0, lambda delivered: None, idle=lambda: idle.append(1))
    assert len(idle) == 3

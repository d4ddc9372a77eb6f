"""Upstream's samples generator with MEL on top, on a real Ray, with a scripted engine as the model."""

import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from e2e_cpu.scripted import Characters, Counted, Scripted

from openrlhf_mel.cpu import standins
from openrlhf_mel.settings import mel_options
from openrlhf_mel.settings.mel_options import MELConfig

pytestmark = [pytest.mark.ray, pytest.mark.timeout(400)]
ARGS = SimpleNamespace(
    actor=SimpleNamespace(num_nodes=1, num_gpus_per_node=1),
    ds=SimpleNamespace(ring_attn_size=1, tensor_parallel_size=1),
    algo=SimpleNamespace(
        advantage=SimpleNamespace(is_correction_level="off"),
        dynamic_filtering_enable=False,
        dynamic_filtering_range=(0.0, 1.0),
    ),
    data=SimpleNamespace(max_len=4000, apply_chat_template=False, input_template=None),
    rollout=SimpleNamespace(
        batch_size=4, n_samples_per_prompt=4, vllm_generate_batch_size=None, top_p=1.0, micro_batch_size=1
    ),
    train=SimpleNamespace(num_episodes=3, micro_batch_size=1, batch_size=4, dynamic_batch_enable=False),
    vllm=SimpleNamespace(enable_sleep=False),
    mel=mel_options.with_lengths(MELConfig(), 4000, 100),
)


@pytest.fixture(scope="module")
def engine():
    standins.install()
    import ray

    paths = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]
    env = {"PYTHONPATH": ":".join(paths), "RAY_ENABLE_ZERO_COPY_TORCH_TENSORS": "0"}
    hook = "openrlhf_mel.cpu.standins.install"
    ray.init(
        address="local",
        num_cpus=2, num_gpus=0, include_dashboard=False, object_store_memory=100 * 2**20,
        runtime_env={"worker_process_setup_hook": hook, "env_vars": env},
    )  # fmt: skip
    yield ray.remote(Scripted).options(max_concurrency=50).remote()
    ray.shutdown()


@pytest.fixture
def generator(engine):
    from openrlhf_mel.prompts import Templates
    from openrlhf_mel.upstream.samples_generator import MetaExperienceGenerator

    def make(questions, evaluation=(), labels=None, **changes):
        args = SimpleNamespace(**(vars(ARGS) | changes))
        templates = Templates.load()

        def loader(names):
            prompts = [templates.question(n) for n in names]
            rows = [(["s"], [p], [labels[i] if labels else f"{i + 11}"], [None]) for i, p in enumerate(prompts)]

            class Loader(list):
                dataset = SimpleNamespace(prompts=prompts, questions=list(names), labels=[row[2][0] for row in rows])

            return Loader(rows)

        return MetaExperienceGenerator(
            SimpleNamespace(args=args), loader(questions), loader(evaluation), Characters(), [engine]
        )

    return make


def collect(samples):
    """Return the groups and candidates attached to `samples`."""
    from openrlhf_mel.upstream import group_sample

    found = group_sample.records_of(samples)
    return [record.group for record in found], [m for record in found for m in record.candidates]


def seen(engine):
    import ray

    return ray.get(engine.seen.remote())


def test_the_scorer_travels_with_the_label_to_rollouts_and_replays(engine, generator):
    import ray

    from openrlhf_mel.verifier import Reference

    questions = ["Where?\nA. Rome\nB. Paris", "a", "b", "c"]
    labels = [Reference("B", "choice", questions[0]), *(Reference(name, "mine:f", name) for name in "abc")]
    ray.get(engine.seen_labels.remote())
    made, *_ = generator(questions, labels=labels).generate_samples(max_len=4000, max_new_tokens=100)
    groups, _ = collect(made)
    assert {(g.answer.scorer, g.answer.question) for g in groups} == {(r.scorer, r.question) for r in labels}
    seen_labels = ray.get(engine.seen_labels.remote())
    for wanted in ("rollout", "replay"):
        told = [(label, label.scorer, label.question) for kind, label in seen_labels if kind == wanted]
        assert sorted(told) == sorted((r, r.scorer, r.question) for r in labels), wanted


def test_an_agent_that_returns_the_label_as_plain_text_does_not_lose_its_scorer(engine, generator):
    import ray

    from openrlhf_mel.verifier import Reference

    questions = ["[plain] Where?\nA. Rome\nB. Paris", "a", "b", "c"]
    labels = [Reference("B", "choice", questions[0]), *map(Reference, "abc")]
    ray.get(engine.seen_labels.remote())
    made, *_ = generator(questions, labels=labels).generate_samples(max_len=4000, max_new_tokens=100)
    groups, _ = collect(made)
    assert {(g.answer, g.answer.scorer, g.answer.question) for g in groups} == {
        (r, r.scorer, r.question) for r in labels
    }
    replayed = [label for kind, label in ray.get(engine.seen_labels.remote()) if kind == "replay"]
    assert "choice" in [label.scorer for label in replayed]


def test_each_group_starts_its_experience_when_it_is_finished(engine, generator):
    seen(engine)
    made, *_ = generator(["slow until 3", "a", "b", "c"]).generate_samples(max_len=4000, max_new_tokens=100)
    events = seen(engine)
    finished = {p: t for t, kind, p in events if kind == "rollout"}
    slow = next(t for p, t in finished.items() if "slow" in p)
    early = [t for t, kind, p in events if kind in ("analysis", "replay") and "slow" not in p]
    assert len(early) == 6 and max(early) < slow  # three questions finished M and replay before the slow rollout
    groups, candidates = collect(made)
    assert {g.question for g in groups} == {"slow until 3", "a", "b", "c"}
    assert len(candidates) == 4 and all(m.kept for m in candidates)
    assert all(m.replays == [f"\\boxed{{{m.group.answer}}}"] for m in candidates)
    assert len(made) == 16


def test_an_m_that_did_not_end_by_itself_is_truncated(generator):
    """These are vLLM's other finish reasons; stop tokens and the end token give "stop"."""
    made, *_ = generator(["[length]", "[abort]", "[error]", "a"]).generate_samples(max_len=4000, max_new_tokens=100)
    assert {m.group.question: m.reason for m in collect(made)[1]} == {
        "[length]": "truncated", "[abort]": "truncated", "[error]": "truncated", "a": None,
    }  # fmt: skip


def test_a_group_whose_responses_are_not_of_one_question_ends_the_run(generator):
    g = generator(["[changed]"])
    with pytest.raises(ValueError, match=r"the prompts of responses 0 and 1 differ from character \d+ on: "):
        g.generate_samples(max_len=4000, max_new_tokens=100)


def test_only_mixed_groups_are_constructed(engine, generator):
    made, *_ = generator(["easy", "a"]).generate_samples(max_len=4000, max_new_tokens=100)
    groups, candidates = collect(made)
    assert len(groups) == 2 and [m.group.question for m in candidates] == ["a"]


def test_evaluation_never_constructs(engine, generator):
    g = generator(["a", "b"], evaluation=["secret 1", "secret 2"])
    seen(engine)
    evaluated = g.generate_eval_samples(max_len=4000, max_new_tokens=100)
    events = seen(engine)
    assert len(evaluated) == 8 and [kind for _, kind, _ in events] == ["rollout", "rollout"]
    assert collect(evaluated) == ([], [])
    # none of it appears in the next rollout
    made, *_ = g.generate_samples(max_len=4000, max_new_tokens=100)
    groups, candidates = collect(made)
    assert {g.question for g in groups} == {m.group.question for m in candidates} == {"a", "b"}
    assert not any("secret" in prompt for _, _, prompt in seen(engine))


def test_experiences_travel_with_their_group_through_the_buffer(generator):
    rollout = SimpleNamespace(**(vars(ARGS.rollout) | {"batch_size": 2, "vllm_generate_batch_size": 4}))
    g = generator(["a", "b", "c", "d"], rollout=rollout)
    for _ in range(2):
        made, *_ = g.generate_samples(max_len=4000, max_new_tokens=100)
        groups, candidates = collect(made)
        assert len(made) == 8
        assert sorted(m.group.question for m in candidates) == sorted(g.question for g in groups)


def test_a_group_and_its_experiences_survive_a_queue(generator):
    """The asynchronous trainer gets samples from another process; a rollout served from the buffer has no info."""
    import pickle

    from openrlhf_mel.upstream import group_sample

    rollout = SimpleNamespace(**(vars(ARGS.rollout) | {"batch_size": 2, "vllm_generate_batch_size": 4}))
    g = generator(["a", "b", "c", "d"], rollout=rollout)
    first, second = (pickle.loads(pickle.dumps(g.generate_samples(max_len=4000, max_new_tokens=100)[0])) for _ in "12")
    for made in (first, second):
        groups, candidates = collect(made)
        assert len(groups) == len(candidates) == 2
        assert {id(m.group) for m in candidates} <= {id(group) for group in groups}
        for record in group_sample.records_of(made):
            assert all(m.group is record.group for m in record.candidates)
        assert [sample.record is not None for sample in made] == 2 * [True, False, False, False]
    (info,) = (record.rollout for record in group_sample.records_of(first) if record.rollout)
    assert first[0].record.rollout is info
    assert info.steps == 3 * 2 and info.construction_s >= info.construction_tail_s >= 0
    assert all(record.rollout is None for record in group_sample.records_of(second))


def test_construction_is_over_before_the_engines_sleep(engine, generator):
    seen(engine)
    vllm = SimpleNamespace(enable_sleep=True)
    generator(["slow until 2", "a", "b"], vllm=vllm).generate_samples(max_len=4000, max_new_tokens=100)
    kinds = [kind for _, kind, _ in seen(engine)]
    assert kinds[0] == "wake" and kinds[-1] == "sleep" and kinds.count("wake") == kinds.count("sleep") == 1
    assert kinds.count("analysis") == kinds.count("replay") == 3


def test_a_filtered_group_is_not_constructed(engine, generator):
    advantage = ARGS.algo.advantage
    algo = SimpleNamespace(
        advantage=advantage, dynamic_filtering_enable=True, dynamic_filtering_range=(0.6, 0.9)
    )  # a mixed group scores 0.5
    seen(engine)
    made, *_ = generator(["a", "b"], algo=algo).generate_samples(max_len=4000, max_new_tokens=100)
    assert collect(made) == ([], [])
    assert {kind for _, kind, _ in seen(engine)} == {"rollout"}


def test_disabled_is_upstreams_generator(engine, generator):
    seen(engine)
    made, *_ = generator(["a"], mel=mel_options.with_lengths(MELConfig(enable=False), 4000, 100)).generate_samples(
        max_len=4000, max_new_tokens=100
    )
    groups, candidates = collect(made)
    assert len(groups) == 1 and candidates == [] and [kind for _, kind, _ in seen(engine)] == ["rollout"]


@pytest.mark.parametrize(
    ("top_p", "measure", "level", "rollout", "evaluation"),
    [
        (1.0, True, "off", 1, None),
        (0.9, True, "off", None, None),
        (1.0, False, "off", None, None),
        (1.0, False, "token", 1, 1),  # upstream's correction requests them itself
    ],
)
def test_the_engines_log_probs_are_asked_for_where_they_are_compared(
    engine, generator, top_p, measure, level, rollout, evaluation
):
    import ray

    changes = {
        "rollout": SimpleNamespace(**(vars(ARGS.rollout) | {"top_p": top_p})),
        "mel": mel_options.with_lengths(MELConfig(measure_mismatch=measure), 4000, 100),
        "algo": SimpleNamespace(**(vars(ARGS.algo) | {"advantage": SimpleNamespace(is_correction_level=level)})),
    }
    g = generator(["a"], evaluation=["b"], **changes)
    ray.get(engine.asked_log_probs.remote())
    g.generate_eval_samples(max_len=4000, max_new_tokens=100)
    g.generate_samples(max_len=4000, max_new_tokens=100)
    assert ray.get(engine.asked_log_probs.remote()) == [
        ("rollout", evaluation), ("rollout", rollout), ("replay", None),
    ]  # fmt: skip
    assert g.args.algo.advantage.is_correction_level == level  # the value that the loss reads


DEFERRED = mel_options.with_lengths(MELConfig(construction="deferred"), 4000, 100)


def test_a_construction_that_outlasts_the_rollout_goes_on_in_the_next(engine, generator):
    """An M in the making is written anew; one that is written is only replayed. Each ends in one rollout."""
    seen(engine)
    g = generator(["[long M] a", "[long replay] b", "c", "slow until 1", "e", "f", "g", "h"], mel=DEFERRED)
    first, *_ = g.generate_samples(max_len=4000, max_new_tokens=100)
    events = [kind for _, kind, _ in seen(engine)]
    assert "c" in {m.group.question for m in collect(first)[1]}
    left = {m.group.question: m for m in g.carried}
    assert left.keys() >= {"[long M] a", "[long replay] b"} and all(m.carries == 1 for m in g.carried)
    assert not left["[long M] a"].token_ids and left["[long replay] b"].token_ids
    assert events.count("aborted") >= 2 and events[-1] == "idle"
    info = first[0].record.rollout
    assert info.carried == () and info.carried_over == len(left) and info.rewritten_tokens > 0
    second, *_ = g.generate_samples(max_len=4000, max_new_tokens=100)
    info = second[0].record.rollout
    assert [id(m) for m in info.carried] == [id(m) for m in left.values()]  # at their bound: waited for
    assert all(m.kept for m in info.carried)
    written = [prompt for _, kind, prompt in seen(engine) if kind == "analysis"]
    assert any("[long M] a" in prompt for prompt in written) and not any(
        "[long replay]" in prompt for prompt in written
    )
    assert {m.group.question for m in g.carried} <= set("efgh")


def test_what_would_be_broken_off_is_not_begun_while_it_can_be_carried(engine, generator):
    class Hurried:
        def __init__(self):
            self.missing = []

        def finish_group(self, seconds):
            assert seconds > 0

        def end_rollout(self, writing_s, full):
            assert full and all(seconds > 0 for seconds in writing_s)

        def leaves_time(self, missing):
            self.missing.append(missing)
            return missing >= 2

    seen(engine)
    g = generator([*"abcdefgh"], mel=DEFERRED, train=SimpleNamespace(**(vars(ARGS.train) | {"num_episodes": 1})))
    g._pace = Hurried()
    first, *_ = g.generate_samples(max_len=4000, max_new_tokens=100)
    held = [m.group.question for m in g.carried[-2:]]
    order = [group.question for group in (each.group for each in g._finished)]
    assert g._pace.missing == [3, 2, 1, 0] and held == order[2:]
    written = [prompt for _, kind, prompt in seen(engine) if kind == "analysis"]
    assert not any(f"\n{question}\n" in prompt for question in held for prompt in written)
    second, *_ = g.generate_samples(max_len=4000, max_new_tokens=100)  # the last: there all are begun
    assert g._pace.missing == [3, 2, 1, 0] and g.carried == []
    carried = {m.group.question for m in second[0].record.rollout.carried}
    assert carried >= set(held) and len(collect(first)[1]) + len(carried) == 4 and len(collect(second)[1]) == 4


def test_carried_constructions_are_first_in_the_engines_queues(engine, generator):
    g = generator(["[long M] a", "b", "c", "d", "e", "f", "g", "h"], mel=DEFERRED)
    g.generate_samples(max_len=4000, max_new_tokens=100)
    seen(engine)
    g.generate_samples(max_len=4000, max_new_tokens=100)
    assert g._resumed and "rollout" not in [kind for _, kind, _ in seen(engine)][: len(g._resumed)]


def test_the_last_rollout_finishes_its_constructions(engine, generator):
    train = SimpleNamespace(**(vars(ARGS.train) | {"num_episodes": 1}))
    g = generator(["[long M] a", "[long replay] b", "c", "d", "e", "f", "g", "h"], mel=DEFERRED, train=train)
    made = [g.generate_samples(max_len=4000, max_new_tokens=100)[0] for _ in range(2)]
    assert g.carried == []
    ended = [m for samples in made for m in (*samples[0].record.rollout.carried, *collect(samples)[1])]
    assert sorted(m.group.question for m in ended) == sorted(["[long M] a", "[long replay] b", *"cdefgh"])


def test_a_stop_does_not_wait_for_constructions(engine, generator, tmp_path):
    from openrlhf_mel.errors import Stopped

    mel = mel_options.with_lengths(MELConfig(run_dir=str(tmp_path)), 4000, 100)
    g = generator(["[long M] stop", "b", "c", "d"], mel=mel)
    threading.Timer(2, (tmp_path / "stop").touch).start()  # long after the last response
    with pytest.raises(Stopped):
        g.generate_samples(max_len=4000, max_new_tokens=100)
    (tmp_path / "stop").unlink()
    g._wait(g._constructions.break_off())  # the engine is the next test's


def test_the_tokenizer_travels_once_and_others_of_its_type_as_ever(engine):
    import ray

    from openrlhf_mel.upstream.sent_once import send_once

    value, other = Counted("a"), Counted("b")
    send_once(value)
    answers = ray.get([engine.given.remote(value, number) for number in range(20)])
    assert [answer[:2] for answer in answers] == [("a", number) for number in range(20)]
    assert len({identity for _, _, identity, _ in answers}) == 1
    assert Counted.states == ["pickled"] and answers[-1][3] == ["read"]
    assert ray.get(engine.given.remote(other, 0))[0] == "b" and Counted.states == ["pickled"] * 2
    replaced = Counted("c")
    send_once(replaced)
    assert [ray.get(engine.given.remote(each, 0))[0] for each in (replaced, value, other)] == ["c", "a", "b"]

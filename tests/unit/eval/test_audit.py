"""eval.audit: the random samples, the figures from saved verdicts, bad input; nothing of the evaluation is changed."""

import hashlib
import json
import tracemalloc

import pytest
from evaluation_folder import question, sample, write_evaluation, write_random

from eval import audit
from eval.auditing.drawing import by_class, draw, walk
from eval.auditing.figures import figures, text
from eval.auditing.judgements import Judgement, JudgementFile
from eval.auditing.session import AuditSession
from eval.auditing.suspicion import OTHER_ACCEPTED
from eval.auditing.texts import Audited, texts
from eval.page import reading

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def out(tmp_path):
    write_random(tmp_path / "out", {"aime24": 12, "amc23": 30}, 4, 0.5)
    return tmp_path / "out"


def classes_of(folder, names=("aime24", "amc23")):
    return by_class(reading.read(folder, "m"), names)


def verdict(one, right=True, **more):
    word = "right" if right else "wrong"
    row = {"key": one.key, "sha256": "0", "verdict": word, "revealed": False, "time": "now"}
    return Judgement(**(row | more))


def correctly(responses, **more):
    """Verdicts of a person who agrees with the verifier."""
    return {one.key: verdict(one, one.suspicion.accepted, **more) for one in responses}


def with_texts(folder, members):
    return list(texts(reading.read(folder, "m"), members))


def read_and_judged(folder, members):
    """The verdicts of such a person on the responses as they are."""
    return {one.key: verdict(one, one.suspicion.accepted, sha256=one.sha256) for one in with_texts(folder, members)}


def save(folder, found):
    with JudgementFile(folder / "audit.jsonl") as file:
        for one in found.values():
            file.append(one)


def hashes(folder):
    return {
        str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*.json*") if "audit" not in p.name
    }


def test_every_response_behind_the_metrics_is_in_one_class(out):
    found = [one for members in classes_of(out).values() for one in members]
    assert len(found) == len({one.key for one in found}) == 5 * 42
    assert {one.key.rpartition("/")[2] for one in found} == {"greedy", "0", "1", "2", "3"}
    assert len([one for members in classes_of(out, ["aime24"]).values() for one in members]) == 5 * 12


def test_a_larger_sample_begins_with_the_smaller_one_and_another_seed_draws_others(out):
    classes = classes_of(out)
    small, large, other = draw(classes, 5, 0), draw(classes, 9, 0), draw(classes, 5, 1)
    for suspicion, members in classes.items():
        assert large[suspicion][:5] == small[suspicion]
        assert len(large[suspicion]) == min(9, len(members)) and {*large[suspicion]} <= {*members}
    assert other[OTHER_ACCEPTED] != small[OTHER_ACCEPTED]


def test_each_response_of_a_class_is_drawn_equally_often(out):
    classes = classes_of(out, ["aime24"])
    drawn = [one.key for seed in range(3000) for one in draw(classes, 1, seed)[OTHER_ACCEPTED]]
    counts = [drawn.count(one.key) for one in classes[OTHER_ACCEPTED]]
    expected = 3000 / len(counts)
    chi_squared = sum((count - expected) ** 2 / expected for count in counts)
    assert chi_squared < len(counts) + 5 * (2 * len(counts)) ** 0.5


def test_classes_take_turns(out):
    drawn = draw(classes_of(out), 6, 0)
    order = walk(drawn)
    assert [one.suspicion for one in order[: len(drawn)]] == list(drawn)
    assert sorted(one.key for one in order) == sorted(one.key for members in drawn.values() for one in members)


def test_figures_count_what_the_person_found(out):
    classes = classes_of(out)
    drawn = draw(classes, 10, 0)
    found = correctly(walk(drawn))
    first, second, third = drawn[OTHER_ACCEPTED][:3]
    found[first.key], found[second.key] = verdict(first, False), verdict(second, False, revealed=True)
    found[third.key] = verdict(third, verdict="unsure")
    result = figures(classes, drawn, found)
    row = result["classes"]["other_accepted"]
    assert (row["drawn"], row["judged"], row["errors"], row["unsure"]) == (10, 10, 2, 1)
    assert row["responses"] == len(classes[OTHER_ACCEPTED]) and row["share"]["value"] == pytest.approx(0.25)
    assert {one["response"] for one in result["misjudged"]} == {first.key, second.key}
    assert result["responses"] == 210 and result["accepted"] / 210 == result["accuracy"]
    share = row["responses"] / result["accepted"]
    assert result["false_positives"]["value"] == pytest.approx(0.25 * share)
    assert result["false_negatives"]["value"] == 0 < result["false_negatives"]["ci95"][1]
    assert result["accuracy_change"]["value"] == pytest.approx(-0.25 * row["responses"] / 210)
    assert result["verdicts"] == {"counted": len(found), "not_counted": 0, "after_reveal": 1}
    assert f"{25 * share:.2f}% [" in text(result) and "1 verdicts were given after" in text(result)


def test_verdicts_behind_a_gap_do_not_count(out):
    """What a person chose to judge is no random sample; the first ones of a random order are."""
    classes = classes_of(out)
    drawn = draw(classes, 10, 0)
    found = correctly(walk(drawn))
    del found[drawn[OTHER_ACCEPTED][4].key]
    beyond = next(one for one in classes[OTHER_ACCEPTED] if one not in drawn[OTHER_ACCEPTED])
    found |= correctly([beyond])
    result = figures(classes, drawn, found)
    assert result["classes"]["other_accepted"]["judged"] == 4
    assert result["verdicts"]["not_counted"] == 6 and "do not count" in text(result)
    del found[drawn[OTHER_ACCEPTED][0].key]
    result = figures(classes, drawn, found)
    assert result["false_positives"] is result["accuracy_change"] is None and result["false_negatives"] is not None
    assert "accepted responses: not known yet" in text(result)


def test_an_evaluation_without_an_accepted_response(tmp_path):
    rows = [sample("q1", 0, True, status="wrong", extracted="77", lenient_status="wrong")]
    write_evaluation(tmp_path / "out", {"b": [(question("q1"), rows)]}, 0)
    classes = classes_of(tmp_path / "out", ["b"])
    result = figures(classes, draw(classes, 5, 0), correctly(one for members in classes.values() for one in members))
    assert result["false_positives"] is None and result["false_negatives"] == {"value": 0, "ci95": [0, 0]}
    assert "false positives among the 0 accepted responses: none" in text(result)


def test_a_session_saves_what_the_page_sends_and_nothing_else(out, tmp_path):
    order = with_texts(out, walk(draw(classes_of(out), 3, 0)))
    with JudgementFile(tmp_path / "audit.jsonl") as file:
        session = AuditSession(order, {}, file)
        sent = {"key": session.order[0].key, "verdict": "wrong", "revealed": True}
        session.judge(sent)
        for bad in (
            None,
            [],
            {},
            sent | {"key": "b/other/0"},
            sent | {"key": []},
            sent | {"verdict": "correct"},
            sent | {"verdict": None},
            sent | {"revealed": "yes"},
            sent | {"sha256": "0"},
        ):
            with pytest.raises(ValueError):
                session.judge(bad)
    lines = (tmp_path / "audit.jsonl").read_text().splitlines()
    assert len(lines) == 1 and list(session.found) == [sent["key"]]
    row = json.loads(lines[0])
    assert row.items() >= (sent | {"sha256": session.order[0].sha256}).items()


def test_texts_are_those_of_the_wanted_responses_alone(out):
    classes = classes_of(out)
    wanted = walk(draw(classes, 2, 0))
    found = with_texts(out, wanted)
    assert {(one.key, one.suspicion) for one in found} == {(one.key, one.suspicion) for one in wanted}
    lines = [json.loads(line) for path in (out / "samples").iterdir() for line in path.read_text().splitlines()]
    whole = {(row["question"], row["greedy"], row["sample"]): row["response"] for row in lines}
    for one in found:
        assert one.sample.response == whole[one.sample.question, one.sample.greedy, one.sample.sample]
    assert max(map(len, whole.values())) > 300


@pytest.mark.parametrize("reasoning", [{}, {"reasoning": "r" * 50_000}])
def test_memory_holds_the_texts_of_drawn_and_judged_responses_alone(tmp_path, monkeypatch, reasoning):
    """400 responses of 50 kB are 20 MB; what an audit keeps is 300 characters of each, and what it shows."""
    asked = []
    for q in range(100):
        rows = [sample(f"q{q}", n, False, "x" * 50_000 + "\\boxed{2}", **reasoning) for n in range(4)]
        asked.append((question(f"q{q}"), rows))
    write_evaluation(tmp_path / "out", {"b": asked}, 4)
    del asked, rows
    hashed, sessions = [], []
    own = Audited.sha256.fget
    judged = read_and_judged(tmp_path / "out", walk(draw(classes_of(tmp_path / "out", ["b"]), 2, 0)))
    save(tmp_path / "out", judged)
    monkeypatch.setattr(Audited, "sha256", property(lambda one: hashed.append(one.key) or own(one)))
    monkeypatch.setattr(audit, "_serve", lambda session, *_: sessions.append(session))
    tracemalloc.start()
    try:
        assert audit.main([str(tmp_path / "out"), "--per-class", "5"]) == 0
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4_000_000
    assert sorted(hashed) == sorted(judged) and sessions[0].found.keys() == judged.keys()
    assert len(sessions[0].order) == 5 and all(len(one.sample.response) > 50_000 for one in sessions[0].order)


def test_the_command_estimates_from_saved_verdicts_and_changes_no_score(out, capsys):
    before = hashes(out)
    save(out, read_and_judged(out, walk(draw(classes_of(out), 8, 0))))
    assert audit.main([str(out), "--no-serve", "--per-class", "8"]) == 0
    result = json.loads((out / "audit.json").read_text())
    assert result["per_class"] == 8 and result["seed"] == 0 and result["benchmarks"] == ["aime24", "amc23"]
    assert result["false_positives"]["value"] == 0 and not result["misjudged"]
    assert "accepted responses: 0.00% [0.00, " in capsys.readouterr().out
    assert hashes(out) == before and len(before) == 5


def test_the_verdicts_may_be_in_another_folder(out, tmp_path):
    save(tmp_path, read_and_judged(out, walk(draw(classes_of(out, ["aime24"]), 3, 5))))
    more = ["--no-serve", "--per-class", "3", "--seed", "5", "--benchmarks", "aime24", "--output", str(tmp_path)]
    assert audit.main([str(out), *more]) == 0
    assert json.loads((tmp_path / "audit.json").read_text())["responses"] == 60 and not (out / "audit.json").exists()


def refused(capsys, *arguments):
    assert audit.main([*map(str, arguments)]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ") and message.count("\n") == 1
    return message


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--benchmarks", "aime25"], "'aime25' is not in"),
        (["--benchmarks", "aime24,"], "'' is not in"),
        (["--per-class", "0"], "--per-class 0"),
        (["--max-characters", "10"], "--max-characters 10"),
        (["--no-serve"], "no verdict on these"),
        (["--port", "99999"], "--port 99999"),
    ],
)
def test_bad_arguments_are_refused(out, capsys, arguments, words):
    assert words in refused(capsys, out, *arguments)
    assert not (out / "audit.json").exists()


def test_bad_folders_are_refused(out, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert "no evaluation" in refused(capsys, tmp_path / "empty")
    assert "no evaluation" in refused(capsys, tmp_path / "missing")
    scores = json.loads((out / "metrics.json").read_text())
    scores["benchmarks"]["amc23"]["n_questions"] = 0
    (out / "metrics.json").write_text(json.dumps(scores))
    (out / "questions" / "amc23.jsonl").rename(tmp_path / "questions.jsonl")
    (out / "questions" / "amc23.jsonl").touch()
    assert "no response in amc23" in refused(capsys, out, "--benchmarks", "amc23")
    scores["benchmarks"]["amc23"]["n_questions"] = 30
    (out / "metrics.json").write_text(json.dumps(scores))
    (tmp_path / "questions.jsonl").rename(out / "questions" / "amc23.jsonl")
    (out / "samples" / "amc23.jsonl").write_text("")
    assert "lacks 5 of the 5 samples" in refused(capsys, out)
    (out / "metrics.json").unlink()
    assert "metrics.json" in refused(capsys, out)


def test_damaged_verdicts_and_changed_samples_are_refused(out, capsys):
    found = read_and_judged(out, walk(draw(classes_of(out), 8, 0)))
    save(out, found)
    path = out / "samples" / "aime24.jsonl"
    path.write_text(path.read_text().replace("We add", "We subtract"))
    assert "has changed since it was judged" in refused(capsys, out, "--no-serve")
    (out / "audit.jsonl").write_text("{}\n")
    assert "audit.jsonl, line 1: not a verdict" in refused(capsys, out, "--no-serve")
    (out / "audit.jsonl").write_text('{"key"')
    assert "no verdict" in refused(capsys, out, "--no-serve")
    save(out, found)
    with open(out / "audit.jsonl", "a") as file:
        file.write('{"key"')
    path.write_text(path.read_text().replace("We subtract", "We add"))
    assert audit.main([str(out), "--no-serve", "--per-class", "8"]) == 0

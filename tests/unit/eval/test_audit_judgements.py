"""eval/auditing/judgements.py: verdicts are kept whole, the last one counts, and damage is named."""

import json
import os

import pytest
from evaluation_folder import sample

from eval.auditing.judgements import JUDGEMENTS, Judgement, JudgementFile, current, read_judgements
from eval.auditing.suspicion import OTHER_ACCEPTED
from eval.auditing.texts import Audited
from eval.messages import Question
from eval.store import Sample
from openrlhf_mel.errors import UserError

pytestmark = pytest.mark.timeout(60)
RESPONSES = [
    Audited(Question("b", name, "1 + 1?", "2"), Sample(**sample(name, 0, True)), OTHER_ACCEPTED) for name in "pq"
]


def judgement(place=0, verdict="right", **more):
    audited = RESPONSES[place]
    return Judgement(
        **({"key": audited.key, "sha256": audited.sha256, "verdict": verdict, "revealed": False, "time": "now"} | more)
    )


def write(path, *judgements):
    with JudgementFile(path) as file:
        for one in judgements:
            file.append(one)


def test_the_last_verdict_on_a_response_counts_also_after_opening_again(tmp_path):
    path = tmp_path / "new" / JUDGEMENTS
    write(path, judgement(0, "right"), judgement(1, "unsure"))
    write(path, judgement(0, "wrong"))
    found = current(path, read_judgements(path), RESPONSES)
    assert {key: one.verdict for key, one in found.items()} == {"b/p/greedy": "wrong", "b/q/greedy": "unsure"}
    assert len(read_judgements(path)) == 3


def test_a_line_that_a_kill_cut_short_is_left_out_and_removed_when_the_audit_goes_on(tmp_path):
    path = tmp_path / JUDGEMENTS
    write(path, judgement(0))
    with open(path, "ab") as file:
        file.write(b'{"key": "b/q/gre')
    assert [one.key for one in read_judgements(path)] == ["b/p/greedy"]
    write(path, judgement(1))
    assert [one.key for one in read_judgements(path)] == ["b/p/greedy", "b/q/greedy"]


LINE = {"key": "b/p/greedy", "sha256": "0", "verdict": "right", "revealed": False, "time": "now"}


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        "3",
        "",
        "\xff",
        "[" * 100_000,
        json.dumps(LINE | {"verdict": "correct"}),
        json.dumps(LINE | {"revealed": 1}),
        json.dumps(LINE | {"time": None}),
        json.dumps(LINE | {"more": 1}),
        json.dumps({"key": "b/p/greedy"}),
    ],
)
def test_a_damaged_line_is_named(tmp_path, line):
    path = tmp_path / JUDGEMENTS
    write(path, judgement(0))
    with open(path, "ab") as file:
        file.write(line.encode("latin-1") + b"\n")
    with pytest.raises(UserError, match=rf"{JUDGEMENTS}, line 2: not a verdict .*; remove that line") as found:
        read_judgements(path)
    assert "\n" not in str(found.value)


def test_a_response_that_has_changed_since_is_refused_and_one_that_is_gone_does_not_count(tmp_path):
    path = tmp_path / JUDGEMENTS
    write(path, judgement(0, sha256="another"), judgement(1))
    assert current(path, read_judgements(path), RESPONSES[1:]).keys() == {"b/q/greedy"}
    with pytest.raises(UserError, match="b/p/greedy has changed since it was judged"):
        current(path, read_judgements(path), RESPONSES)


def test_only_judged_responses_are_hashed(tmp_path, monkeypatch):
    hashed = []
    own = Audited.sha256.fget
    path = tmp_path / JUDGEMENTS
    write(path, judgement(1))
    monkeypatch.setattr(Audited, "sha256", property(lambda audited: hashed.append(audited.key) or own(audited)))
    assert current(path, read_judgements(path), iter(RESPONSES)).keys() == {"b/q/greedy"}
    assert hashed == ["b/q/greedy"]


def test_the_fingerprint_is_of_what_a_person_reads_and_not_of_the_verifier_s_verdict():
    def audited(problem="1 + 1?", answer="2", **more):
        return Audited(Question("b", "p", problem, answer), Sample(**sample("p", 0, True, **more)), OTHER_ACCEPTED)

    same = [audited(), audited(status="wrong", extracted="3", lenient_status="error")]
    other = [audited(problem="1 + 2?"), audited(answer="3"), audited(response="It is 2.")]
    assert len({one.sha256 for one in same}) == 1 and len({one.sha256 for one in same[:1] + other}) == 4


def test_one_process_at_a_time(tmp_path):
    path = tmp_path / JUDGEMENTS
    with JudgementFile(path), pytest.raises(UserError, match="another process has this audit open"):
        JudgementFile(path)
    JudgementFile(path).close()


def test_a_closed_file_takes_nothing(tmp_path):
    """The server's threads may outlive it by a moment."""
    file = JudgementFile(tmp_path / JUDGEMENTS)
    file.close()
    with open(tmp_path / "other", "w"), pytest.raises(OSError):
        file.append(judgement())
    assert not (tmp_path / JUDGEMENTS).read_bytes() and not (tmp_path / "other").read_bytes()


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="--output"):
        JudgementFile(tmp_path / "file" / JUDGEMENTS)


def test_nothing_is_kept_of_a_line_for_which_the_disk_has_no_space(tmp_path, monkeypatch):
    path = tmp_path / JUDGEMENTS
    write(path, judgement(0))
    write_some = os.write
    with JudgementFile(path) as file:
        with monkeypatch.context() as patch:
            patch.setattr("os.write", lambda fd, data: write_some(fd, data[:20]))
            with pytest.raises(OSError, match="No space"):
                file.append(judgement(1))
        file.append(judgement(1, "wrong"))
    assert [one.verdict for one in read_judgements(path)] == ["right", "wrong"]

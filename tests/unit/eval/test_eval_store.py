"""eval/store.py: a line is written whole or not at all, with any content, and one process holds a folder."""

import errno
import json
import os
import sys
import threading
from dataclasses import replace
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.messages import Question, Request
from eval.store import (
    Sample,
    Store,
    evaluated,
    evaluations,
    read_json,
    read_questions,
    read_samples,
    request_key,
    single,
)
from openrlhf_mel.errors import UserError

pytestmark = pytest.mark.timeout(60)

BLOCK = 65_536  # block size in which a file's end is searched


def sample(question: str = "q", number: int = 0, response: str = "It is \\boxed{2}.", **more) -> Sample:
    values = {
        "greedy": False,
        "seed": 7,
        "prompt_sha256": "ab",
        "finish_reason": "stop",
        "prompt_tokens": 3,
        "tokens": 9,
    }
    values |= {"status": "correct", "extracted": "2", "lenient_status": "correct", "lenient_extracted": "2"}
    return Sample(question=question, sample=number, response=response, **(values | more))


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path / "out") as opened:
        yield opened


@pytest.fixture(scope="module")
def long_lived(tmp_path_factory):
    """Open a store for many examples, with fresh benchmark names."""
    with Store(tmp_path_factory.mktemp("examples")) as opened:
        yield opened, (f"b{i}" for i in count())


def lines_of(store: Store, benchmark: str) -> bytes:
    return (store.folder / "samples" / f"{benchmark}.jsonl").read_bytes()


def test_a_sample_is_a_line_with_its_fields(store):
    store.append("b", [sample("q1", 3, "é", extracted=None, prompt_tokens=None)])
    expected = {
        "question": "q1", "sample": 3, "greedy": False, "seed": 7, "prompt_sha256": "ab", "response": "é",
        "finish_reason": "stop", "prompt_tokens": None, "tokens": 9, "status": "correct", "extracted": None,
        "lenient_status": "correct", "lenient_extracted": "2",
    }  # fmt: skip
    data = lines_of(store, "b")
    assert data.count(b"\n") == 1 and data.endswith(b"\n")
    assert json.loads(data) == expected


def test_appended_lines_are_there_at_once_and_in_order(store):
    assert list(store.samples("b")) == []
    store.append("b", [sample("q1"), sample("q2")])
    store.append("other", [sample("q9")])
    store.append("b", [])
    store.append("b", [sample("q3")])
    assert [s.question for s in store.samples("b")] == ["q1", "q2", "q3"]
    assert [s.question for s in store.samples("other")] == ["q9"]


def test_an_earlier_run_is_continued(tmp_path):
    for name in ("q1", "q2"):
        with Store(tmp_path) as store:
            store.append("b", [sample(name)])
    assert list(read_samples(tmp_path / "samples" / "b.jsonl")) == [sample("q1"), sample("q2")]


@given(st.lists(st.text(), min_size=1, max_size=4), st.text())
def test_any_text_is_one_line_and_comes_back(long_lived, texts, question):
    store, names = long_lived
    name = next(names)
    written = [sample(question, i, text, extracted=text or None) for i, text in enumerate(texts)]
    store.append(name, written)
    assert list(store.samples(name)) == written
    data = lines_of(store, name)
    assert len(data.decode().splitlines()) == len(data.splitlines()) == len(texts)


@pytest.mark.parametrize(
    "text", ["\u2028", "a\u2029b\x85c", "\0", "\x1c\x0b\r\n", "\\u2028", "😀", '"}\n{"', "\ufeff", "x" * 3_000_000]
)
def test_texts_that_break_lines_elsewhere(store, text):
    store.append("b", [sample(response=text), sample(response="next")])
    assert [s.response for s in store.samples("b")] == [text, "next"]
    assert len(lines_of(store, "b").decode().splitlines()) == 2


def test_the_key_tells_samples_apart_as_that_of_their_requests_does(store):
    for key in (("q", 0, True), ("q", 0, False), ("q", 1, False)):
        assert sample(key[0], key[1], greedy=key[2]).key == key
        assert request_key(Request("b", key[0], key[1], key[2], 7, "prompt")) == key


def test_a_line_that_was_cut_anywhere_is_ignored_and_cut_off(store):
    """A cut may come after any byte of a line, also inside é, 木 and 😀."""
    store.append("b", [sample("q1"), sample("q2", response="é木😀")])
    data = lines_of(store, "b")
    first = data.index(b"\n") + 1
    for end in range(first, len(data)):
        name = f"cut{end}"
        (store.folder / "samples" / f"{name}.jsonl").write_bytes(data[:end])
        assert list(store.samples(name)) == [sample("q1")], end
        store.append(name, [sample("q3")])
        assert list(store.samples(name)) == [sample("q1"), sample("q3")], end


@pytest.mark.parametrize("whole", [0, 1, 2])
@pytest.mark.parametrize("tail", [1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 200_000])
def test_a_long_cut_line_is_cut_off(tmp_path, whole, tail):
    """This includes a cut line with none before it: the file has no line feed at all."""
    path = tmp_path / "samples" / "b.jsonl"
    with Store(tmp_path) as store:
        store.append("b", [sample(f"q{i}") for i in range(whole)])
    with open(path, "ab") as file:
        file.write(b'{"question": "' + b"x" * tail)
    kept = [sample(f"q{i}") for i in range(whole)]
    assert list(read_samples(path)) == kept
    with Store(tmp_path) as store:
        assert list(store.samples("b")) == kept
        store.append("b", [sample("new")])
        assert list(store.samples("b")) == [*kept, sample("new")]


def test_a_whole_file_is_not_shortened(tmp_path):
    for size in (BLOCK - 1, BLOCK, BLOCK + 1):
        path = tmp_path / "samples" / f"b{size}.jsonl"
        with Store(tmp_path) as store:
            store.append(path.stem, [sample(response="")])
            store.append(path.stem, [sample(response="x" * (size - path.stat().st_size))])
            before = path.read_bytes()
        with Store(tmp_path) as store:
            store.append(path.stem, [sample("last")])
        assert path.read_bytes().startswith(before)


FULL_DISK = """
import resource, sys
from pathlib import Path
from test_eval_store import sample
from eval.store import Store

path = Path(sys.argv[1]) / "samples" / "b.jsonl"
with Store(Path(sys.argv[1])) as store:
    store.append("b", [sample("first")])
    line = path.stat().st_size
    # Of two lines three quarters fit; then one fits, then half of one, then nothing.
    for room, names in ((2.5, ["lost1", "lost2"]), (2.5, ["fits1"]), (2.5, ["lost3"]), (2, ["lost4"]), (9, ["after"])):
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(room * line), resource.RLIM_INFINITY))
        try:
            store.append("b", [sample(name) for name in names])
        except OSError as error:
            print(names[0], error.errno, path.stat().st_size / line, error.filename)
"""


def test_a_full_disk_leaves_nothing_of_a_write(tmp_path, command):
    """A file-size limit simulates the disk: a write ends short, or fails at once."""
    done = command(
        sys.executable, "-c", FULL_DISK, tmp_path, limit=30, env=os.environ | {"PYTHONPATH": "tests/unit/eval"}
    )
    assert done.returncode == 0, done.stderr
    path = tmp_path / "samples" / "b.jsonl"
    assert [s.question for s in read_samples(path)] == ["first", "fits1", "after"]
    said = [line.split() for line in done.stdout.splitlines()]
    assert said[:2] == [["lost1", str(errno.ENOSPC), "1.0", str(path)], ["lost3", str(errno.ENOSPC), "2.0", str(path)]]
    assert said[2][:3] == ["lost4", str(errno.EFBIG), "2.0"]


def test_a_second_holder_is_refused_until_the_first_lets_go(tmp_path):
    with Store(tmp_path) as first:
        first.append("b", [sample()])
        with pytest.raises(UserError, match=rf"--output-dir {tmp_path}: another process is evaluating into it"):
            Store(tmp_path)
        first.append("b", [sample("q2")])
        with Store(tmp_path / "another"):
            pass
    with Store(tmp_path) as second:
        assert len(list(second.samples("b"))) == 2


def test_another_process_is_refused_too(tmp_path, command):
    with Store(tmp_path):
        done = command(
            sys.executable, "-c", f"from pathlib import Path; from eval.store import Store; Store(Path({str(tmp_path)!r}))",
            limit=30,
        )  # fmt: skip
    assert done.returncode == 1 and "another process is evaluating into it" in done.stderr


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=f"--output-dir {tmp_path / 'file'}: "):
        Store(tmp_path / "file")


def test_replace_writes_all_anew_and_is_appended_to(store):
    store.append("b", [sample(f"q{i}") for i in range(5)])
    store.replace("b", iter([sample("r1"), sample("r2")]))
    store.append("b", [sample("r3")])
    assert [s.question for s in store.samples("b")] == ["r1", "r2", "r3"]
    store.replace("never written", [sample()])
    assert list(store.samples("never written")) == [sample()]


def test_a_replacement_that_fails_changes_nothing(store):
    def failing():
        yield sample("new")
        raise OSError(errno.ENOSPC, "full")

    store.append("b", [sample("old")])
    with pytest.raises(OSError, match="full"):
        store.replace("b", failing())
    store.append("b", [sample("later")])
    assert [s.question for s in store.samples("b")] == ["old", "later"]


def test_threads_that_append_at_once_keep_lines_whole(store):
    at_once = threading.Barrier(6)

    def write(thread: int) -> None:
        at_once.wait()
        for i in range(40):
            batch = [sample(f"t{thread}", 3 * i + j, "é" * (500 * j)) for j in range(3)]
            store.append(f"b{i % 2}", batch)

    threads = [threading.Thread(target=write, args=(t,)) for t in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = [list(store.samples(f"b{i}")) for i in range(2)]
    for samples in found:  # a batch stays together
        batches = [samples[i : i + 3] for i in range(0, len(samples), 3)]
        assert all([s.sample - b[0].sample for s in b] == [0, 1, 2] for b in batches)
        assert all(len({s.question for s in b}) == 1 for b in batches)
    every = [s.key for samples in found for s in samples]
    assert sorted(every) == sorted((f"t{t}", i, False) for t in range(6) for i in range(120))


def test_closing_twice_and_flushing_do_no_harm(tmp_path):
    store = Store(tmp_path)
    store.append("b", [sample()])
    store.flush()
    descriptors = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else None
    store.close()
    store.close()
    if descriptors:
        assert len(os.listdir("/proc/self/fd")) == descriptors - 2  # the lock and the samples
    assert list(store.samples("b")) == [sample()]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{", "line 2: not JSON"),
        (b"\xff\xfe", "line 2: not JSON"),
        (b"", "line 2: not JSON"),
        (b'{"question": "q"}', "line 2: not a sample of this version"),
        (b"[1]", "line 2: not a sample of this version"),
    ],
)
def test_a_damaged_line_is_named(store, line, message):
    store.append("b", [sample()])
    path = store.folder / "samples" / "b.jsonl"
    with open(path, "ab") as file:
        file.write(line + b"\n")
    store.append("b", [sample("after")])
    with pytest.raises(UserError, match=rf"samples/b\.jsonl, {message}"):
        list(store.samples("b"))


@pytest.mark.parametrize(
    ("field", "value"),
    [("question", ["q"]), ("sample", "0"), ("greedy", 0), ("response", None), ("tokens", "9"), ("extracted", 2),
     ("status", "right"), ("lenient_status", None)],
)  # fmt: skip
def test_a_field_of_another_kind_is_named(store, field, value):
    store.append("b", [sample(), replace(sample(), **{field: value})])
    with pytest.raises(
        UserError, match=rf"samples/b\.jsonl, line 2: {field}: found .*remove that line to draw it again"
    ):
        list(store.samples("b"))


def test_questions_come_back_in_order_with_unit_and_tolerance(store):
    questions = [
        Question("b", "q2", "What?\u2028", "2"),
        Question("b", "q1", "How long?", "3.5", unit="cm", tolerance=0.1),
        Question("b", "q0", "How much?", "50", unit="%", tolerance=0.0),
    ]
    store.write_questions("b", questions)
    assert read_questions(store.folder, "b") == questions
    store.write_questions("b", questions[:1])  # another --limit
    assert read_questions(store.folder, "b") == questions[:1]
    row = json.loads((store.folder / "questions" / "b.jsonl").read_text())
    assert row == {"id": "q2", "problem": "What?\u2028", "answer": "2"}
    store.write_questions("a", questions[:1])
    assert evaluated(store.folder) == ["a", "b"]


def test_a_folder_without_an_evaluation_is_named(tmp_path):
    with pytest.raises(UserError, match=r"no evaluation in this folder; expected questions/<benchmark>\.jsonl"):
        evaluated(tmp_path)
    with pytest.raises(UserError, match=r"questions/b\.jsonl: no such file; expected an evaluation's folder"):
        read_questions(tmp_path, "b")
    (tmp_path / "questions").mkdir()
    (tmp_path / "questions" / "b.jsonl").write_text('{"id": "q", "problem": "p", "answer": "2"}\n{"id": "q"}\n')
    with pytest.raises(UserError, match=r"b\.jsonl, line 2: not a question of this version"):
        read_questions(tmp_path, "b")


def test_a_folder_stands_for_its_evaluation_or_its_checkpoints(tmp_path):
    for label in ("step-10", "model"):
        (tmp_path / "run" / label / "questions").mkdir(parents=True)
    assert evaluations(tmp_path / "run") == [tmp_path / "run" / "model", tmp_path / "run" / "step-10"]
    assert (
        evaluations(tmp_path / "run" / "model") == [tmp_path / "run" / "model"] == [single(tmp_path / "run" / "model")]
    )
    with pytest.raises(UserError, match=r"holds several checkpoints; name one of .*/model, .*/step-10"):
        single(tmp_path / "run")
    with pytest.raises(UserError, match="no evaluation in this folder"):
        evaluations(tmp_path)


def test_what_was_made_for_nothing_is_removed(tmp_path):
    with Store(tmp_path / "refused"):
        pass
    (tmp_path / "mine").mkdir()
    with Store(tmp_path / "mine"):
        pass
    with Store(tmp_path / "used") as store:
        store.append("b", [sample()])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "used"]
    assert not list((tmp_path / "mine").iterdir())
    assert list(read_samples(tmp_path / "used" / "samples" / "b.jsonl")) == [sample()]


def test_a_json_file_that_is_missing_or_damaged_is_named(tmp_path):
    path = tmp_path / "settings.json"
    for content in (None, b"{", b"\xff"):
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(UserError, match=r"settings\.json: cannot be read .*expected a file that eval\.run wrote"):
            read_json(path)
    path.write_text('{"a": 1}')
    assert read_json(path) == {"a": 1}

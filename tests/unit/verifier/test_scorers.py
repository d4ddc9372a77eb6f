"""Scorers by name: a user's own runs in the workers, and its errors are reported; golds pass their own scorer."""

import copy
import hashlib
import json
import pickle
import sys
from pathlib import Path

import pytest

from openrlhf_mel.errors import UserError
from openrlhf_mel.verifier import Reference, Verifier, check_golds, check_named_by_data

pytestmark = pytest.mark.timeout(120)

MODULE = """
import mmap, os, time
OWNER = os.getpid()
KEPT = []

def same_word(answer, gold, question):
    return answer.casefold() == gold.casefold()

def asked(answer, gold, question):
    return answer in question

def sleeps(answer, gold, question):
    while answer == "sleep":
        time.sleep(1)
    return True

def greedy(answer, gold, question):
    return len(bytearray(10**11)) > 0

def dies(answer, gold, question):
    os._exit(1)

def raises(answer, gold, question):
    raise KeyError("no such unit")

def numpys(answer, gold, question):
    import numpy
    return numpy.array([answer]) == numpy.array([gold]) if question else (numpy.array([answer]) == numpy.array([gold]))[0]

def ones(answer, gold, question):
    return True if answer == gold else 0

def grows(answer, gold, question):
    KEPT.append(mmap.mmap(-1, 100 * 2**20))
    return True

def returns_nothing(answer, gold, question):
    pass

def never(answer, gold, question):
    return False

def two(answer, gold):
    return True

class Callable:
    def __call__(self, answer, gold, question="", *more):
        return answer == gold

called = Callable()
NUMBER = 3
"""


@pytest.fixture
def module(tmp_path, monkeypatch) -> str:
    """Return the name of a user's module, which only the workers import."""
    name = f"scorers_of_{abs(hash(tmp_path))}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    (tmp_path / f"{name}_fails.py").write_text("raise RuntimeError('no licence')")
    (tmp_path / f"{name}_exits.py").write_text("raise SystemExit(3)")
    monkeypatch.syspath_prepend(tmp_path)
    yield name
    assert name not in sys.modules


@pytest.fixture
def verifier():
    with Verifier(workers=1, timeout_s=5) as started:
        yield started


def test_a_scorer_of_ones_own_judges(verifier, module):
    def status(function: str, answer: str, gold: str, question: str = "") -> str:
        return verifier.verify(rf"So \boxed{{{answer}}}.", Reference(gold, function, question)).status

    for path in (f"{module}:same_word", f"{module}.same_word"):
        assert status(path, "Paris", "PARIS") == "correct"
        assert status(path, "Rome", "PARIS") == "wrong"
    assert status(f"{module}:asked", "red", "x", "red or blue?") == "correct"
    assert status(f"{module}:called", "a", "a") == "correct"
    assert verifier.verify("It is Paris", Reference("Paris", f"{module}:same_word")).status == "no_answer"
    assert verifier.verify(r"\boxed{paris}", Reference("Paris", f"{module}:same_word"), "lenient").correct


def test_what_it_does_wrong_costs_one_answer(module):
    with Verifier(workers=1, timeout_s=1) as verifier:

        def status(function: str, answer: str = "x") -> str:
            return verifier.verify(rf"\boxed{{{answer}}}", Reference("x", f"{module}:{function}")).status

        assert status("sleeps", "sleep") == "timeout"
        for function in ("greedy", "dies", "raises", "returns_nothing", "two", "missing"):
            assert status(function) == "error", function
        assert status("sleeps") == "correct"


def test_numpys_truth_values_count(verifier, module):
    def verdict(answer: str, question: str = "") -> str:
        return verifier.verify(rf"\boxed{{{answer}}}", Reference("x", f"{module}:numpys", question)).status

    assert [verdict("x"), verdict("y"), verdict("x", "an array of one")] == ["correct", "wrong", "error"]


def test_the_first_failure_of_a_scorer_is_logged(verifier, module, caplog):
    ones, dies = (Reference("x", f"{module}:{name}") for name in ("ones", "dies"))
    assert verifier.verify(r"\boxed{x}", ones).correct and not caplog.records
    assert [verdict.status for verdict in verifier.verify_many([(r"\boxed{y}", ones)] * 3)] == ["error"] * 3
    (record,) = caplog.records
    assert f"scorer {module}:ones: TypeError: {module}:ones returned 0, expected True or False" in record.message
    assert verifier.verify(r"\boxed{y}", dies).status == "error"
    assert [f"scorer {module}:dies: its worker process ended" in r.message for r in caplog.records] == [False, True]


def test_what_a_scorers_module_takes_does_not_tire_its_worker(module, tmp_path):
    """Like a module that imports torch, it takes more than half of a worker's memory limit."""
    (tmp_path / f"{module}_large.py").write_text(
        "import mmap\nTAKEN = mmap.mmap(-1, 600 * 2**20)\ndef f(answer, gold, question):\n    return True\n"
    )
    with Verifier(workers=1) as verifier:
        gold = Reference("x", f"{module}_large:f")
        assert verifier.verify(r"\boxed{x}", gold).correct
        pids = verifier.worker_pids()
        assert pids and verifier.verify_many([(r"\boxed{x}", gold)] * 3)[2].correct
        assert verifier.worker_pids() == pids


def test_what_a_scorers_calls_leave_behind_does(module):
    with Verifier(workers=1) as verifier:
        gold, pids = Reference("x", f"{module}:grows"), set()
        for _ in range(12):
            assert verifier.verify(r"\boxed{x}", gold).correct
            pids |= set(verifier.worker_pids())
        assert len(pids) > 1


@pytest.mark.parametrize("name", ["math", "choice"])
def test_data_may_name_a_built_in_scorer(name):
    check_named_by_data(name, False, "--flag")


@pytest.mark.parametrize("name", ["shutil.rmtree", "builtins.print", "mine:f"])
def test_data_may_name_a_function_that_the_user_allows(name):
    with pytest.raises(UserError, match=f"scorer {name}: the data name this function.*pass --flag if you trust it"):
        check_named_by_data(name, False, "--flag")
    check_named_by_data(name, True, "--flag")
    for allowed in (False, True):
        with pytest.raises(UserError, match="expected math, choice"):
            check_named_by_data([name], allowed, "--flag")


@pytest.mark.parametrize(
    "path",
    ["shutil.rmtree", "os.execlp", "os:symlink", "shutil.move", "builtins.bool", "builtins:print", "os.path.join"],
)
def test_a_function_of_pythons_own_is_no_scorer(verifier, tmp_path, path):
    with pytest.raises(
        UserError, match=f"scorer {path}: .*is a module of Python itself; expected a function of your own"
    ):
        verifier.check_scorer(path)
    victim = tmp_path / "victim"
    victim.mkdir()
    assert verifier.verify(rf"\boxed{{{victim}}}", Reference(str(victim), path, "True")).status == "error"
    assert victim.exists()


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("{}:missing", r"cannot be imported: AttributeError: .*missing"),
        ("{}_fails:f", "cannot be imported: RuntimeError: no licence"),
        ("{}_exits:f", "cannot be imported: SystemExit: 3"),
        ("no_such_module_here:f", "cannot be imported: ModuleNotFoundError"),
        ("{}:two", r"too many positional arguments; expected a function of \(answer, gold, question\)"),
        ("{}:NUMBER", r"found 3, expected a function of \(answer, gold, question\)"),
        ("chioce", "expected math, choice, or your own as package.module:function"),
        ("a b:c", "expected math, choice"),
        ("a:b:c", "expected math, choice"),
        ("", "expected math, choice"),
        (None, "expected math, choice"),
    ],
)
def test_a_scorer_that_cannot_be_used_is_named(verifier, module, path, message):
    path = path and path.format(module)
    with pytest.raises(UserError, match=message) as raised:
        verifier.check_scorer(path)
    assert repr(path) in str(raised.value) or str(path) in str(raised.value)


def test_a_scorers_file_is_part_of_its_identity(verifier, module, tmp_path):
    path = tmp_path / f"{module}.py"
    assert verifier.check_scorer(f"{module}:same_word") == hashlib.sha256(path.read_bytes()).hexdigest()
    assert verifier.check_scorer("math") == verifier.check_scorer("choice") == ""


def test_an_import_that_ends_the_worker_is_named(verifier, tmp_path, monkeypatch):
    (tmp_path / "ends_here.py").write_text("import os; os._exit(1)")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match="ends_here:f"):
        verifier.check_scorer("ends_here:f")


def test_golds_pass_their_own_scorer(verifier, module):
    def why(function: str) -> str:
        found = verifier.check_golds([Reference("x", f"{module}:same_word"), Reference("x", f"{module}:{function}")])
        assert 0 not in found
        return found.get(1, "")

    assert why("same_word") == ""
    assert "does not find it equal to itself" in why("never")
    assert "KeyError: 'no such unit'" in why("raises")
    assert "returned None, expected True or False" in why("returns_nothing")
    assert "expected a function of (answer, gold, question)" in why("two")
    assert why("dies")


PROGRAMS = ["def f(x): return x", "import os", "print(1)", "return x", "x = lambda y: y", "for i in range(10): pass"]
MATHEMATICS = [
    "x+1", "7", r"\text{east}", "Evelyn", "12 apples", "Route 66", "vertex (3,4)", "1:2", "4:30 p.m.", "n even", "triangle ABC",
    "f(x)=cx for all x", r"f(x)=ax+b, \text{where } a \text{ is arbitrary}", "$f(x)=x$, where $x$ is whatever", r"\sin(x)", "xyz",
    r"t(0,4]", "The midpoints form a regular hexagon", "hello world", "area = 12", "def", "ABCD", r"\operatorname{lcm}(a,b)",
]  # fmt: skip


def test_a_program_is_no_gold_of_mathematics():
    found = check_golds(PROGRAMS + MATHEMATICS)
    assert [row for row in found if row >= len(PROGRAMS)] == []
    assert all("is no mathematics" in found[row] for row in range(len(PROGRAMS)))


def test_what_is_judged_as_mathematics_stays_as_it_was(verifier):
    """Preparation refuses a program as a gold; in data prepared earlier it is judged as before."""
    assert verifier.verify(r"\boxed{def f(x): return x}", "def f(x): return x").correct


def test_a_reference_is_its_text_and_travels_whole():
    reference = Reference("B", "choice", "Which?")
    assert reference == "B" and hash(reference) == hash("B") and json.dumps({"label": reference}) == '{"label": "B"}'
    for travelled in (pickle.loads(pickle.dumps(reference)), copy.copy(reference), copy.deepcopy(reference)):
        assert (travelled, travelled.scorer, travelled.question) == ("B", "choice", "Which?")
    assert (Reference("B").scorer, Reference("B").question) == ("math", "")
    for wrong in ((3,), ("B", None), ("B", ["choice"]), ("B", "choice", None), ("B", "choice", ["a", "list"])):
        with pytest.raises(TypeError, match="expected a text"):
            Reference(*wrong)


def test_shared_data_have_no_gold_that_is_a_program():
    shared = Path(__file__).parents[3].parent / "shared" / "data" / "benchmarks"
    if not shared.is_dir():
        pytest.skip(f"no test data at {shared}")
    golds = [
        json.loads(line)["answer"] for path in sorted(shared.glob("*.jsonl")) for line in path.open(encoding="utf-8")
    ]
    from openrlhf_mel.verifier.words import strange

    assert [gold for gold in golds if strange(gold)] == []

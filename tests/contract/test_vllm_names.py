"""tools/vllm_names.py on a vLLM of a few lines that the test makes, and on the real wheel."""

import importlib.util
import inspect
import json
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.timeout(120)

EXTRACT = Path(__file__).with_name("vllm_names.json")
SCRIPT = Path(__file__).parents[2] / "tools" / "vllm_names.py"
COMMITTED = json.loads(EXTRACT.read_text(encoding="utf-8"))

spec = importlib.util.spec_from_file_location("vllm_names", SCRIPT)
vllm_names = sys.modules["vllm_names"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(vllm_names)

FAKE_USES = {
    "ours.py": """
        vllm.Params(temperature=_, top_p=_)
        vllm.Engine.from_args(_)
        vllm.Engine.step()
        await vllm.Engine.pause(mode=_)
        vllm.Engine.generate(_, request_id=_)
        vllm.Engine.config
        vllm.Prompt(ids=_)
        vllm.modes.Mode["keep"]
        vllm.envs.VLLM_QUIET
        vllm.__version__
        not vllm.Engine.update
    """
}
FAKE = {
    "vllm-1.0.dist-info/METADATA": "Name: vllm\nVersion: 1.0\n",
    "vllm/__init__.py": """
        from .version import __version__
        ATTRIBUTES = {"Engine": ".engine.core:Engine", "Params": "vllm.params:Params", "Prompt": ".inputs:Prompt"}
        if typing.TYPE_CHECKING:
            from .nowhere import Engine
        else:
            def __getattr__(name):
                raise AttributeError
    """,
    "vllm/version.py": """
        try:
            from ._version import __version__
        except ImportError:
            __version__ = "dev"
    """,
    "vllm/_version.py": "__version__ = version = '1.0'",
    "vllm/engine/__init__.py": "",
    "vllm/engine/core.py": """
        from ..v1.core import V1Engine as Latest
        raise RuntimeError("this is not to be run")
        Engine = Latest
    """,
    "vllm/v1/__init__.py": "",
    "vllm/v1/core.py": """
        from vllm.v1.base import Base
        class V1Engine(Base):
            @classmethod
            def from_args(cls, args, usage=Usage.ENGINE): ...
            async def pause(self, *, mode="abort"): ...
            async def generate(self, prompt, /, request_id, **more):
                yield prompt
    """,
    "vllm/v1/base.py": """
        class Base:
            def __init__(self, config, *callbacks, level=-1):
                self.config = config
            def step(self): ...
    """,
    "vllm/params.py": """
        class Params(msgspec.Struct, omit_defaults=True):
            LIMIT: ClassVar[int] = 2
            temperature: float = 1.0
            top_p: float = 1.0
            stop: list = msgspec.field(default_factory=list)
    """,
    "vllm/inputs/__init__.py": "from .llm import Prompt",
    "vllm/inputs/llm.py": """
        class Prompt(TypedDict):
            ids: list[int]
            text: NotRequired[str]
    """,
    "vllm/modes.py": 'Mode = Literal["abort", "keep"]',
    "vllm/envs.py": """
        variables: dict[str, Any] = {"VLLM_QUIET": lambda: True}
        def __getattr__(name): ...
    """,
}


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """The script on the fake vLLM, with changes of (file, what is there, what comes for it): its code and its lines."""
    table = tmp_path / "uses.yaml"
    table.write_text(yaml.safe_dump({user: inspect.cleandoc(lines) for user, lines in FAKE_USES.items()}))
    monkeypatch.setattr(vllm_names, "USES", table)

    def call(option, *changes, folder=False):
        files = {path: inspect.cleandoc(text) for path, text in FAKE.items()}
        for path, old, new in changes:
            assert old in files[path]
            files[path] = files[path].replace(old, new)
        source = tmp_path / ("folder" if folder else "vllm-1.0-py3-none-any.whl")
        if folder:
            for path, text in files.items():
                (source / path).parent.mkdir(parents=True, exist_ok=True)
                (source / path).write_text(text)
        else:
            with zipfile.ZipFile(source, "w") as wheel:
                for path, text in files.items():
                    wheel.writestr(path, text)
        monkeypatch.setattr(sys, "argv", ["vllm_names.py", str(source), option, str(tmp_path / "names.json")])
        code = vllm_names.main()
        return code, capsys.readouterr().out.splitlines()

    call.extract = lambda: json.loads((tmp_path / "names.json").read_text())
    call.file = tmp_path / "names.json"
    return call


def test_an_extract_of_a_wheel(run):
    assert run("--output") == (0, ["vllm 1.0: all 11 uses hold"])
    found = run.extract()
    assert found["vllm"] == "1.0" and found["wheel"] == "vllm-1.0-py3-none-any.whl"
    assert found["names"] == {
        "vllm.Engine": {"module": "vllm.v1.core", "kind": "class", "takes": ["config", "*callbacks", "level=-1"]},
        "vllm.Engine.config": {"kind": "attribute"},
        "vllm.Engine.from_args": {"kind": "classmethod", "takes": ["args", "usage=..."]},
        "vllm.Engine.generate": {"kind": "async generator method", "takes": ["prompt", "/", "request_id", "**more"]},
        "vllm.Engine.pause": {"kind": "async method", "takes": ["*", "mode='abort'"]},
        "vllm.Engine.step": {"kind": "method", "takes": []},
        "vllm.Params": {
            "module": "vllm.params",
            "kind": "struct",
            "takes": ["temperature=1.0", "top_p=1.0", "stop=..."],
        },
        "vllm.Prompt": {"module": "vllm.inputs.llm", "kind": "typed dict", "takes": ["*", "ids", "text=..."]},
        "vllm.__version__": {"module": "vllm._version", "kind": "value"},
        "vllm.envs.VLLM_QUIET": {"module": "vllm.envs", "kind": "value"},
        "vllm.modes.Mode": {"module": "vllm.modes", "kind": "value", "values": ["abort", "keep"]},
    }
    assert {"vllm/__init__.py", "vllm/engine/core.py", "vllm/v1/base.py"} <= found["sha256"].keys()
    assert run("--check") == run("--check", folder=True) == (0, ["vllm 1.0: all 11 uses hold"])


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            ("vllm/params.py", "top_p", "nucleus"),
            [
                "ours.py: vllm.Params(temperature=_, top_p=_): got an unexpected keyword argument 'top_p'; it takes "
                "(temperature=1.0, nucleus=1.0, stop=...)",
                "vllm.Params: takes: lost top_p=1.0; gained nucleus=1.0",
                "vllm/params.py: SHA-256: found",
            ],
        ),
        (
            ("vllm/v1/base.py", "def step", "def proceed"),
            ["ours.py: vllm.Engine.step(): not there", "vllm.Engine.step: kind: found none, expected method"],
        ),
        (
            ("vllm/__init__.py", '"vllm.params:Params"', '".sampling:Params"'),
            ["ours.py: vllm.Params(temperature=_, top_p=_): not there", "vllm.Params: module: found none"],
        ),
        (
            ("vllm/engine/core.py", "..v1.core import V1Engine", "vllm.v1.base import Base"),
            ["vllm.Engine: module: found vllm.v1.base, expected vllm.v1.core", "ours.py: vllm.Engine.from_args(_): not there"],
        ),
        (
            ("vllm/v1/base.py", "def step(self)", "def step(self, budget)"),
            ["ours.py: vllm.Engine.step(): missing a required argument: 'budget'", "vllm.Engine.step: takes: lost none; gained budget"],
        ),
        (
            ("vllm/v1/base.py", "def step", "@property\n    def step"),
            ["ours.py: vllm.Engine.step(): found property, expected what can be called"],
        ),
        (
            ("vllm/v1/base.py", "self.config = config", "pass\n    def config(self): ..."),
            ["ours.py: vllm.Engine.config: found method, expected a value"],
        ),
        (
            ("vllm/v1/core.py", "async def pause", "def pause"),
            ["ours.py: await vllm.Engine.pause(mode=_): found method, expected one to be awaited"],
        ),
        (
            ("vllm/v1/core.py", "def from_args", "async def from_args"),
            ["ours.py: vllm.Engine.from_args(_): found async classmethod, expected one not to be awaited"],
        ),
        (
            ("vllm/v1/base.py", "def step", "def update(self): ...\n    def step"),
            ["ours.py: not vllm.Engine.update: found method, expected none"],
        ),
        (
            ("vllm/params.py", "temperature: float = 1.0\n    top_p: float = 1.0", "top_p: float = 1.0\n    temperature: float = 1.0"),
            ["vllm.Params: takes: in another order"],
        ),
        (
            ("vllm/modes.py", "keep", "freeze"),
            ["ours.py: vllm.modes.Mode['keep']: found abort, freeze", "vllm.modes.Mode: values: lost keep; gained freeze"],
        ),
        (("vllm/envs.py", "VLLM_QUIET", "VLLM_SILENT"), ["ours.py: vllm.envs.VLLM_QUIET: not there"]),
        (("vllm-1.0.dist-info/METADATA", "1.0", "1.1"), ["version: found 1.1, expected 1.0"]),
    ],
)  # fmt: skip
def test_what_differs_is_said(run, change, expected):
    run("--output")
    code, lines = run("--check", change)
    assert code == 1
    for start in expected:
        assert any(line.startswith(start) for line in lines), lines


def test_an_extract_in_which_a_use_does_not_hold_is_not_written(run):
    code, lines = run("--output", ("vllm/v1/base.py", "def step", "def proceed"))
    assert (code, lines) == (1, ["ours.py: vllm.Engine.step(): not there"])
    assert not run.file.exists()


@pytest.mark.parametrize("name", ["absent", "README.md", "docs"])
def test_what_is_no_vllm_is_refused(name, command):
    done = command(sys.executable, SCRIPT, name, "--check", EXTRACT, limit=60)
    assert done.returncode == 1
    assert done.stderr == f"{name}: found 0 vllm-*.dist-info, expected 1, as in a wheel of vLLM\n"


@pytest.mark.slow  # 316 MB
@pytest.mark.timeout(1800)
def test_the_extract_is_that_of_the_wheel(tmp_path, command):
    wanted = f"vllm=={COMMITTED['vllm']}"
    # The source is the same for every machine; the extract names the wheel for this one.
    options = ["--no-deps", "--only-binary=:all:", "--platform", "manylinux_2_28_x86_64", "--dest", tmp_path]
    done = command(sys.executable, "-m", "pip", "download", "--retries", "1", *options, wanted, limit=1700)
    if done.returncode and "(from versions: none)" in done.stderr:
        pytest.skip(f"needs the wheel of {wanted}: no package index can be reached that has it")
    assert done.returncode == 0, done.stdout + done.stderr
    [wheel] = tmp_path.iterdir()
    assert wheel.name == COMMITTED["wheel"]
    checked = command(sys.executable, SCRIPT, wheel, "--check", EXTRACT, limit=60)
    assert checked.returncode == 0, checked.stdout + checked.stderr

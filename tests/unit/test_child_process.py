"""A child runs given code, and answers over its socket."""

import os
import socket
import sys
import tempfile

import pytest

from openrlhf_mel import child_process

SAYS = """
import os, socket, sys
with socket.socket(fileno=int(sys.argv[1])) as own:
    own.send(f"{sys.argv[2:]} {os.getsid(0) == os.getpid()} {os.environ['MARK']} {own.type.name}".encode())
print("printed")
"""


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_SEQPACKET])
def test_arguments_variables_and_a_session_of_its_own(kind):
    with tempfile.TemporaryFile() as output:
        ours, process = child_process.start(SAYS, "a", "b c", kind=kind, environment={"MARK": "x"}, output=output)
        with ours:
            assert ours.recv(4096).decode() == f"['a', 'b c'] True x {kind.name}"
            assert process.wait(30) == 0 and ours.recv(1) == b""
        output.seek(0)
        assert output.read() == b"printed\n" and "MARK" not in os.environ


def test_it_imports_what_its_owner_can(tmp_path, monkeypatch):
    (tmp_path / "only_here.py").write_text("NAME = 'here'")
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    ours, process = child_process.start("import only_here, os, sys; os.write(int(sys.argv[1]), b'here')")
    with ours:
        assert ours.recv(4096) == b"here" and process.wait(30) == 0


def test_nothing_is_left_open_when_it_cannot_start(monkeypatch):
    before = os.listdir("/proc/self/fd")
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(FileNotFoundError):
        child_process.start("pass")
    assert os.listdir("/proc/self/fd") == before

"""The seam to OpenRLHF 0.11.2: the classes that replace upstream's, and the checks that upstream is as expected."""

from pathlib import Path

AGENT_EXECUTOR = str(Path(__file__).with_name("agent_executor.py"))  # which OpenRLHF loads by its path

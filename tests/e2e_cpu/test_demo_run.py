"""`make demo` shows its point: both algorithms learn, and meta-experiences are kept and varied."""

import json
import sys

import pytest


@pytest.mark.release
@pytest.mark.ray
@pytest.mark.timeout(960)
def test_the_demo_reaches_its_objective(command, tmp_path):
    done = command(sys.executable, "-m", "demo", "--output-dir", tmp_path, limit=900)
    assert done.returncode == 0, done.stderr[-2000:]
    summary = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    for name in ("grpo", "mel"):
        gain = summary["gain_over_base"][name]
        assert gain["avg@8"] >= 0.15 and gain["ci95"][0] > 0, (name, gain)
        assert (tmp_path / name / "model" / "model.safetensors").is_file()
    mel = summary["training"]["mel"]
    assert 0.3 <= mel["retention_ratio"] <= 0.98
    assert mel["distinct_share"] >= 0.5
    assert summary["training"]["grpo"]["retention_ratio"] is None
    assert (tmp_path / "curves.png").is_file()

"""The code of the page and of the notebook runs as it stands."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

ROOT = Path(__file__).parents[2]
ONE_THREAD = "import torch\n\ntorch.set_num_threads(1)\n"


def run(script: str, folder: Path) -> str:
    """What a script prints; it must end well."""
    path = folder / "script.py"
    path.write_text(script, encoding="utf-8")
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "TMPDIR": str(folder), "MPLBACKEND": "agg"}
    environment |= {"MPLCONFIGDIR": str(folder), "HOME": str(folder)}
    command = [sys.executable, str(path)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=folder, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_pages_code_runs(tmp_path: Path) -> None:
    pytest.importorskip("stable_baselines3")
    page = (ROOT / "docs" / "train_your_own.md").read_text(encoding="utf-8")
    blocks = [dedent(block) for block in re.findall(r"^ *```python\n(.*?)^ *```", page, re.DOTALL | re.MULTILINE)]
    assert len(blocks) == 2
    assert len([line for line in blocks[0].splitlines() if line.strip()]) <= 20
    told = run(ONE_THREAD + "\n".join(blocks).replace("STEPS", "3_000"), tmp_path)
    score = re.fullmatch(r"(\d+\.\d)% of what hindsight would have won\n", told)
    assert score is not None, told
    assert 90 < float(score[1]) < 100


@pytest.mark.slow
def test_the_notebooks_code_runs(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = ROOT / "docs" / "notebooks" / "bidding_env.ipynb"
    assert path.stat().st_size < 300_000
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert all(cell["execution_count"] for cell in cells if cell["cell_type"] == "code")
    assert sum("image/png" in json.dumps(cell.get("outputs", [])) for cell in cells) >= 2
    assert "LP-KM" in run("\n\n".join(code), tmp_path)

"""What the README says is true: its example runs, its table of switches is complete, CI runs its test command."""

import re
import subprocess
import sys
from pathlib import Path

from fastconv._config import SWITCHES

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_examples_run(tmp_path):
    """One after the other in one process; the weights that the second one loads are made up."""
    examples = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    assert len(examples) == 4
    checks = [
        "assert y.shape == (8, 16, 16, 16) and scores.shape == (8, 10) and isinstance(scores, np.ndarray)\n"
        "from fastconv.training import small_network\n"
        "made_up = small_network((28, 28), 10, ((16, True), (32, True), (64, False)), 128)\n"
        "import os; os.mkdir('fastconv-train')\n"
        "fc.save_state(made_up.state_dict(), 'fastconv-train/weights.safetensors')\n",
        "assert accuracy > 0.3\n",
        "assert scores.shape == (1, 1000)\n",
        "assert report.parameters == 1_235_496 and len(forms.rows) == 8\n",
    ]
    code = "\n".join(part for pair in zip(examples, checks, strict=True) for part in pair)
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{code}"
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr


def test_every_switch_is_in_the_table():
    rows = re.findall(r"^\| `(FASTCONV_\w+)` \| (\S+) \| (.*) \|$", README, re.MULTILINE)
    wanted = [(s.variable, f"`{s.default}`" if s.default else "unset", s.meaning) for s in SWITCHES.values()]
    assert rows == wanted


def test_ci_finds_the_test_command():
    script = (ROOT / ".ci/run").read_text(encoding="utf-8")
    pattern = re.search(r"grep -m 1 -E '([^']+)' README.md", script)[1]
    assert re.findall(pattern, README, re.MULTILINE) == ['pip install -e ".[test]" && pytest -n auto']


def test_every_extra_that_the_readme_names_exists():
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for names in re.findall(r"pip install .*\[([\w,]+)\]", README):
        assert all(re.search(rf"^{name} = \[", pyproject, re.MULTILINE) for name in names.split(","))

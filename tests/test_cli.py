"""Bad input: one line that names the thing and the way out, exit code 2, nothing half-written."""

import subprocess
import sys

import pytest

from covtoken.paths import project_root


def _run(*arguments):
    command = [sys.executable, "-c", "from covtoken.cli import main; main()", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["gate", "1", "--cohort", "bussi"], "did you mean busi"),
        (["gate", "9"], "unknown gate '9'"),
        (["gate", "1", "--record"], "--record needs --split test"),
        (["gate", "1", "--cohort", "phantom", "--split", "training"], "expected selection, test or crossfit"),
        (["gate", "1", "--backbone", "vit_smal_patch14_dinov2"], "vit_small_patch14_dinov2"),
        (["alarm", "--cohort", "bussi"], "did you mean busi"),
        (["lock", "everything"], "expected thresholds or headline"),
        (["signoff", "1", "--cohort", "nowhere", "--name", "A"], "no report at"),
        (["signoff", "1", "--cohort", "/tmp/nowhere", "--name", "A"], "gate_reports/nowhere/gate1.json"),
        (["lock", "thresholds", "--cohort", "/tmp/nowhere"], "gate_reports/_run/nowhere/gate1.json"),
        (["lock", "headline", "--cohort", "/tmp/nowhere"], "gate_reports/nowhere/gate1.json"),
        (["gate", "1", "--cohort", "/tmp/nowhere"], "/tmp/nowhere is no folder"),
        (["gate", "1", "--data", "/tmp"], "leave the data folder (/tmp) out"),
        (["ablate", "--cohort", "bussi"], "did you mean busi"),
        (["gate", "1", "--split", "test", "--record", "--precision", "bf16"], "recorded numbers are fp32"),
    ],
)
def test_one_clear_line_and_exit_code_2(arguments, expected):
    before = sorted((project_root() / "gate_reports").glob("*/*"))
    result = _run(*arguments)
    assert result.returncode == 2, result.stderr
    assert expected in result.stderr and result.stderr.count("\n") == 1 and "Traceback" not in result.stderr
    assert sorted((project_root() / "gate_reports").glob("*/*")) == before


def test_help_is_quick_of_imports_and_names_the_commands():
    code = "import sys, covtoken.cli; assert 'torch' not in sys.modules; covtoken.cli.app(['--help'])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    for command in ("gate", "lock", "ablate", "alarm", "report", "signoff"):
        assert command in result.stdout

"""A worker whose store refuses it, or has no spec for it, says so in one line and leaves with an exit code."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fakes_upstream import DEAD_ADDRESS

WORKERS = ("services.trainer.worker", "services.trainer.worker.count", "services.evaluator.worker")


@pytest.mark.parametrize("module", WORKERS)
def test_a_worker_without_its_spec_says_so_in_one_line_and_leaves(tmp_path: Path, module: str) -> None:
    given = {
        "AFINA_SPEC": "jobs/job-1/spec-1.json",
        "AFINA_ATTEMPT_TOKEN": "secret-of-the-attempt",
        "OBJECT_STORE": f"file://{tmp_path}/objects",
        "AFINA_REPORT_TO": DEAD_ADDRESS,
        "AFINA_CACHE": str(tmp_path / "cache"),
        "GATEWAY_URL": "http://127.0.0.1:1",
        "GATEWAY_API_KEY": "secret-of-the-gateway",
    }
    done = subprocess.run(
        (sys.executable, "-m", module), env={**os.environ, **given}, capture_output=True, text=True, timeout=120, check=False
    )
    said = done.stdout + done.stderr
    assert done.returncode == 1, said
    assert "Traceback" not in said
    assert "secret-of" not in said
    last = json.loads(said.strip().splitlines()[-1])
    assert "jobs/job-1/spec-1.json" in str(last), last

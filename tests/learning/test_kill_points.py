"""A kill before any write of a checkpoint or of the publication costs a step and nothing else; all points by one command."""

import subprocess
import sys


def test_a_kill_before_one_write_of_each_kind_ends_the_same() -> None:
    command = [sys.executable, "-m", "tests.learning.kill_points"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=280)
    print(ended.stdout, ended.stderr)  # shown where the test fails
    assert ended.returncode == 0
    assert "ended the same, bit for bit." in ended.stdout

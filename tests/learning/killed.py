"""The worker's program, which sends itself a signal after its first checkpoint; run by the tests of resuming."""

import os
import signal

from services.trainer.worker import __main__ as program
from services.trainer.worker import checkpoint


def main(number: signal.Signals) -> int:
    """Run the worker, and send the signal once."""
    save, is_sent = checkpoint.save, False

    def save_and_signal(*args: object) -> object:
        nonlocal is_sent
        manifest = save(*args)  # type: ignore[arg-type]
        if not is_sent:
            is_sent = True
            os.kill(os.getpid(), number)
        return manifest

    checkpoint.save = save_and_signal  # type: ignore[assignment]
    return program.main()

"""Progress of the long things, a job, a sweep and an evaluation, as bars on a terminal and as a few lines elsewhere.

A watch that breaks is taken up again after the last event seen, so a service may restart while somebody looks on.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from afina.v1 import evaluation_pb2, fine_tuning_job_pb2, sweep_pb2
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn

from services.cli.output import duration, short
from services.common.errors import Unavailable
from services.common.transport.grpc_client import Client

MAX_AWAY_S = 60.0  # jobs go on while their program is away, so it is waited for; longer, and a person should know
LOOK_S = 1.0
JOB_ENDED = ("SUCCEEDED", "FAILED", "CANCELLED")
WIDE = 110  # columns from which on there is room for all the numbers
TOLD_EVENTS = ("EVALUATION_STARTED", "VERDICT", "NOT_EVALUATED")
LINES = 10  # that a program without a terminal gets of a training run


def state_of(message: Any) -> str:
    """Return a resource's state as a word."""
    return short(type(message).State.Name(message.state))


async def watch_job(out: Console, jobs: Client, name: str, *, to_verdict: bool = True) -> fine_tuning_job_pb2.FineTuningJob:
    """Show a job until it has ended, and where its model is compared with its base until the verdict stands; return it.

    Raises: NotFound, Unavailable.
    """
    job: fine_tuning_job_pb2.FineTuningJob | None = None
    with _progress(out) as bars:
        view = _JobView(out, bars)
        responses = again(
            out,
            lambda after: jobs.WatchFineTuningJob(fine_tuning_job_pb2.WatchFineTuningJobRequest(name=name, after_sequence=after)),
        )
        async for response in responses:
            job = response.fine_tuning_job
            view.show(job, response.events)
            if state_of(job) in JOB_ENDED and not (job.awaits_verdict and to_verdict):
                break
            if state_of(job) in JOB_ENDED:
                view.say_usable(job)
    if job is None:
        raise Unavailable(f"Nothing was told about {name}; ask again.")
    return job


async def watch_evaluation(out: Console, evaluations: Client, name: str) -> evaluation_pb2.Evaluation:
    """Show an evaluation until it has ended, and return it. Raises: NotFound, Unavailable."""
    evaluation: evaluation_pb2.Evaluation | None = None
    with _progress(out) as bars:
        view = _EvaluationView(out, bars)
        responses = again(
            out,
            lambda after: evaluations.WatchEvaluation(evaluation_pb2.WatchEvaluationRequest(name=name, after_sequence=after)),
        )
        async for response in responses:
            evaluation = response.evaluation
            view.show(evaluation)
            if state_of(evaluation) in JOB_ENDED:
                break
    if evaluation is None:
        raise Unavailable(f"Nothing was told about {name}; ask again.")
    return evaluation


async def watch_sweep(out: Console, sweeps: Client, name: str) -> sweep_pb2.Sweep:
    """Show a sweep until it has ended, and return it. Raises: NotFound, Unavailable."""
    sweep: sweep_pb2.Sweep | None = None
    with _progress(out) as bars:
        task = bars.add_task("running", total=None, told="")
        responses = again(out, lambda after: sweeps.WatchSweep(sweep_pb2.WatchSweepRequest(name=name, after_sequence=after)))
        async for response in responses:
            sweep = response.sweep
            for event in response.events:
                out.print(f"  {event.message}", style="yellow" if event.level > 1 else "", markup=False)
            running = [member.progress for member in sweep.members if member.HasField("progress")]
            bars.update(
                task,
                description=state_of(sweep).lower(),
                total=len(sweep.members),
                completed=sum(bool(member.rank) or member.HasField("error") for member in sweep.members),
                told=f"step {running[0].step}/{running[0].total_steps} · {_told(running[0], False)}" if running else "recipes",
            )
            if state_of(sweep) in JOB_ENDED:
                break
    if sweep is None:
        raise Unavailable(f"Nothing was told about {name}; ask again.")
    return sweep


async def again(
    out: Console,
    open_watch: Callable[[int], AsyncIterator[Any]],
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> AsyncIterator[Any]:
    """Yield from a watch, opened again where it broke, until the server closes it; say once that the program is away.

    Raises: Unavailable (the program has been away for a minute).
    """
    after, away_since = 0, None
    while True:
        try:
            async for response in open_watch(after):
                if away_since is not None:
                    out.print("  It answers again.", style="yellow")
                    away_since = None
                after = max([after, *(event.sequence for event in response.events)])
                yield response
            return
        except Unavailable as error:
            if away_since is None:
                away_since = clock()
                out.print(f"  {error.message} Waiting for up to {MAX_AWAY_S:g} s…", style="yellow", markup=False)
            if clock() - away_since >= MAX_AWAY_S:
                raise
            await sleep(LOOK_S)


def _progress(out: Console) -> Progress:
    return Progress(
        SpinnerColumn(finished_text="✓"),
        TextColumn("{task.description}"),
        BarColumn(bar_width=28 if out.width >= WIDE else 10),
        MofNCompleteColumn(),
        TextColumn("{task.fields[told]}"),
        console=out,
        disable=not out.is_terminal,
    )


class _JobView:
    """A bar that follows the steps; where there is no terminal, a line for each state and each tenth of the way."""

    def __init__(self, out: Console, bars: Progress) -> None:
        self._out, self._bars = out, bars
        self._task: TaskID = bars.add_task("waiting", total=None, told="")
        self._state, self._tenth = "", 0
        self._is_usable_told = False

    def say_usable(self, job: fine_tuning_job_pb2.FineTuningJob) -> None:
        """Say, once, that nothing more has to be waited for."""
        if not self._is_usable_told:
            told = (
                f"The model answers as {job.fine_tuned_model}. It is compared with its base now; Ctrl-C ends the watching only."
            )
            self._out.print(f"  {told}", markup=False, soft_wrap=True)
        self._is_usable_told = True

    def show(self, job: fine_tuning_job_pb2.FineTuningJob, events: Any) -> None:
        """Take in what is new."""
        state, progress = state_of(job), job.progress
        for event in events:
            if event.level > 1 or event.type in TOLD_EVENTS:  # a warning or an error; expected progress is in the bar
                self._out.print(f"  {event.message}", style="yellow" if event.level > 1 else "", markup=False, soft_wrap=True)
        told = _told(progress, self._out.width >= WIDE) if progress.total_steps else ""
        self._bars.update(
            self._task,
            description="comparing" if job.awaits_verdict else state.lower(),
            total=progress.total_steps or None,
            completed=progress.step,
            told=told,
        )
        if not self._out.is_terminal:
            tenth = LINES * progress.step // max(1, progress.total_steps)
            if state != self._state or tenth > self._tenth:
                steps = f" {progress.step}/{progress.total_steps}" if progress.total_steps else ""
                self._out.print(f"  {state.lower()}{steps} {told}".rstrip(), markup=False)
            self._tenth = tenth
        self._state = state


class _EvaluationView:
    def __init__(self, out: Console, bars: Progress) -> None:
        self._out, self._bars = out, bars
        self._task: TaskID = bars.add_task("waiting", total=None, told="questions")
        self._told: tuple[str, int] = ("", 0)

    def show(self, evaluation: evaluation_pb2.Evaluation) -> None:
        """Take in what is new."""
        state = state_of(evaluation)
        answered, asked = evaluation.answered_count, evaluation.question_count
        self._bars.update(self._task, description=state.lower(), total=asked or None, completed=answered)
        seen = (state, LINES * answered // max(1, asked))
        if not self._out.is_terminal and seen != self._told:
            self._out.print(f"  {state.lower()} {answered}/{asked} questions", markup=False)
        self._told = seen


def _told(progress: fine_tuning_job_pb2.Progress, is_wide: bool) -> str:
    words = [f"loss {progress.train_loss:.3f}"]
    if progress.HasField("validation_loss"):
        words.append(f"{'validation' if is_wide else 'val'} {progress.validation_loss:.3f}")
    words += [f"lr {progress.learning_rate:.1e}"] if is_wide else []
    words.append(f"{progress.tokens_per_s:.0f} tokens/s")
    if progress.step < progress.total_steps:
        words.append(f"ETA {duration(progress.eta_s)}")
    return " · ".join(words)

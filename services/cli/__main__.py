"""The program `afina`: every noun with its verbs, and the commands that run the five programs here."""

from typing import Any

import click

from services.cli import (
    chat,
    completion,
    datasets,
    demo,
    endpoints,
    evaluations,
    files,
    jobs,
    keys,
    logs,
    models,
    suites,
    sweeps,
    tokens,  # noqa: F401 - a verb of datasets
    up,
)

EPILOG = """Completion of words and names in your shell: eval "$(afina completion bash)" (or zsh; afina completion fish | source).

Environment: AFINA_HOME (default ~/.afina), AFINA_PROJECT, what is shown to the programs (AFINA_API_KEY or AFINA_SERVICE_TOKEN;
else AFINA_HOME/service_token), and the address of a program that runs elsewhere: DATASET_ADDRESS, TRAINER_ADDRESS,
EVALUATOR_ADDRESS, INFERENCE_ADDRESS, GATEWAY_ADDRESS, GATEWAY_URL. Where `afina up` keeps things: OBJECT_STORE
(s3://bucket/prefix, with S3_ENDPOINT_URL and AWS_*), AFINA_DATABASE (postgresql://user:password@host/database).

Exit codes: 0 done, 1 failed, 2 usage or refused input, 3 not found, 4 no answer, 5 not in this state, 6 not allowed, 130
interrupted. With --json errors are an object on standard error."""


EXIT_INTERRUPTED = 130  # as shells write it: 128 + SIGINT


class _Interruptible(click.Group):
    def invoke(self, context: click.Context) -> Any:
        """Run a command; one that somebody interrupts has neither succeeded nor failed."""
        try:
            return super().invoke(context)
        except KeyboardInterrupt:
            context.exit(EXIT_INTERRUPTED)


@click.group(cls=_Interruptible, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="afina")
def afina() -> None:
    """Fine-tune, evaluate, gate and serve language models on your own machines.

    `afina up` starts the programs, `afina demo` shows the whole road.
    """


for group in (datasets, files, jobs, sweeps, models, suites, evaluations, endpoints, keys):
    afina.add_command(group.group)
for command in (up.up, up.down, up.status, logs.logs, demo.demo, chat.chat, completion.completion):
    afina.add_command(command)


def main() -> None:
    """Run the command that the arguments name."""
    afina(prog_name="afina")


if __name__ == "__main__":
    main()

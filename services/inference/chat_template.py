"""A chat template that the catalogue declares: Jinja from outside, parsed here and never compiled or rendered.

Whoever renders it – transformers in a job, vLLM in a server – does so in a sandbox of its own. What is asked here is only
whether it is a template of chats at all, so that the mistake is told when it is declared and not in the middle of a job.
"""

import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from jinja2 import Environment, TemplateSyntaxError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from services.common.errors import Violation

FIELD = "catalogue_entry.chat_template"
MAX_BYTES = 64 << 10


class _Generation(Extension):
    """`{% generation %}` … `{% endgeneration %}`, by which transformers marks what the assistant said. Here: its content."""

    tags = {"generation"}  # noqa: RUF012 – declared so by jinja2

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """Return the statements inside."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def check_template(template: str) -> list[Violation]:
    """Return what keeps a text from being a chat template; nothing for an empty one. Reads it; does not run it."""
    if not template:
        return []
    size_bytes = len(template.encode())
    if size_bytes > MAX_BYTES:
        return [_violation("TOO_LARGE", f"The chat template has {size_bytes} bytes; at most {MAX_BYTES} are taken.")]
    environment = ImmutableSandboxedEnvironment(extensions=[loopcontrols, _Generation], autoescape=False)
    try:
        tree = environment.parse(template)  # not compiled: that computes constants, and `9**(9**8)` is one
        return [_violation("CHAT_TEMPLATE_INVALID", told) for told in _mistakes(environment, tree)]
    except TemplateSyntaxError as error:
        told = f"The chat template can't be parsed: {error.message} in line {error.lineno}."
    except RecursionError:
        told = "The chat template is nested too deeply."
    return [_violation("CHAT_TEMPLATE_INVALID", told)]


def _mistakes(environment: Environment, tree: nodes.Template) -> Iterator[str]:
    for node in tree.find_all((nodes.Filter, nodes.Test)):
        known = environment.filters if isinstance(node, nodes.Filter) else environment.tests
        if node.name not in known:
            word = type(node).__name__.lower()
            yield f"The chat template uses the {word} {node.name!r} in line {node.lineno}, which nobody knows."
    if not any(node.name == "messages" for node in tree.find_all(nodes.Name)):
        yield "The chat template never looks at `messages`; every chat would be the same prompt."


def write_template(cache: Path, template: str) -> Path:
    """Put a template where a model server reads it, under its digest, and return the file. Idempotent; safe concurrently."""
    path = cache / "templates" / f"{hashlib.sha256(template.encode()).hexdigest()}.jinja"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8", newline="") as staged:
            staged.write(template)
        os.chmod(staged.name, 0o644)
        os.replace(staged.name, path)
    return path


def _violation(reason: str, description: str) -> Violation:
    return Violation(FIELD, reason, description)

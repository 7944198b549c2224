"""Resource names: `projects/{project}/datasets/{dataset}` and the ids inside them.

Names come from outside, so they are matched whole against a pattern and never used as a path or in a query as they are.
"""

import re
import secrets

from services.common.errors import InvalidInput

_ID = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
LOWER_ID = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


def new_id(prefix: str) -> str:
    """Return a fresh id such as `ftjob-3f…`, with 96 random bits."""
    return f"{prefix}-{secrets.token_hex(12)}"


def parse(pattern: str, name: str) -> dict[str, str]:
    """Split a name by its pattern: `parse("projects/{project}/files/{file}", name)["file"]`. Raises: InvalidInput."""
    expression = re.sub(r"\{(\w+)\}", rf"(?P<\1>{_ID})", pattern)
    match = re.fullmatch(expression, name)
    if match is None:
        raise InvalidInput(f"{name!r} is not a name of the form {pattern}.", reason="NAME_INVALID", metadata={"pattern": pattern})
    return match.groupdict()


def project_of(name: str) -> str:
    """Return the project of a name or of a parent. Raises: InvalidInput."""
    match = re.match(rf"projects/({_ID})(/|\Z)", name)
    if match is None:
        raise InvalidInput(f"{name!r} does not begin with projects/{{project}}.", reason="NAME_INVALID")
    return match.group(1)


def last(name: str) -> str:
    """Return the last part of a name: the id."""
    return name.rpartition("/")[2]

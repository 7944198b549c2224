"""What a program says at /readyz: whether what it needs answers, and if not, what is away."""

import asyncio
import json
import urllib.error
import urllib.request

from services.cli.home import Home

NOT_READY = 503
TIMEOUT_S = 6.0  # more than a program takes to ask its own dependencies


async def missing(home: Home, program: str) -> dict[str, str]:
    """Return what a program waits for, each with a sentence; nothing where it is ready, or does not answer at all."""
    return await asyncio.to_thread(_ask, home.probes_url(program))


def _ask(url: str) -> dict[str, str]:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        direct.open(f"{url}/readyz", timeout=TIMEOUT_S).close()
    except urllib.error.HTTPError as error:
        return _told(error.read()) if error.code == NOT_READY else {}
    except OSError:  # nobody listens, or nobody answers: that is another question
        return {}
    return {}


def _told(body: bytes) -> dict[str, str]:
    """Read an answer of a program's probes."""
    try:
        document = json.loads(body)
        if "missing" in document:
            return {str(name): str(sentence) for name, sentence in document["missing"].items()}
        return {"program": str(document["status"])}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {"program": "It is not ready, and does not say why."}

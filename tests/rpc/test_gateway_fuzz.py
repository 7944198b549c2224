"""The HTTP API, fuzzed from its own OpenAPI document by schemathesis: never a 500, and every refusal in OpenAI's shape.

Seeded and short, so that a run is the same everywhere. For a long one, with another seed:

    AFINA_FUZZ_EXAMPLES=500 AFINA_FUZZ_SEED=2 python -m pytest tests/rpc/test_gateway_fuzz.py
"""

import asyncio
import json
import os
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.rpc.jobs_world import World, jobs_world

EXAMPLES = int(os.environ.get("AFINA_FUZZ_EXAMPLES", "6"))
SEED = os.environ.get("AFINA_FUZZ_SEED", "1")
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,ignored_auth"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with jobs_world(tmp_path) as running:
        await running.serve_base("tiny")
        yield running


async def test_the_document_names_every_path_and_every_refusal(world: World) -> None:
    document = await _document(world)
    operations = {(method, path): op for path, of_path in document["paths"].items() for method, op in of_path.items()}
    assert len(operations) == 29
    for (method, path), operation in operations.items():
        assert operation["responses"]["default"]["content"]["application/json"]["schema"]["$ref"].endswith("/Error")
        is_refusal = path.startswith("/v1/responses/")
        assert ("200" in operation["responses"]) is not is_refusal, (method, path)


@pytest.mark.timeout(3600)
async def test_fuzzing_finds_no_server_error_and_no_refusal_of_another_shape(world: World, tmp_path: Path) -> None:
    found, said = await _fuzz(world, tmp_path, await _narrowed(world))
    assert found == 0, said[-12_000:]
    assert int(re.findall(r"(\d+) generated", said)[-1]) > 500, said[-3000:]
    metrics = world.gateway.counted()
    assert 'status="200"' in metrics
    assert not re.search(r'status="5\d\d"', metrics), metrics


async def test_a_document_that_lies_about_an_answer_is_found_out(world: World, tmp_path: Path) -> None:
    document = await _narrowed(world)
    document["components"]["schemas"]["File"]["properties"]["bytes"] = {"type": "string"}
    found, said = await _fuzz(world, tmp_path, document, "--include-path", "/v1/files/{file_id}", "--include-method", "GET")
    assert found == 1
    assert "Response violates schema" in said


async def _document(world: World) -> Any:
    async with aiohttp.ClientSession() as session, session.get(f"{world.gateway.url}/openapi.json") as response:
        return await response.json()


async def _narrowed(world: World) -> Any:
    """Return the document with ids that exist among those to try, so that the fuzzer gets behind every 404."""
    file = await world.upload()
    job = await world.client.fine_tuning.jobs.create(training_file=file, model="tiny")
    upload = await world.client.uploads.create(bytes=9, filename="x", mime_type="", purpose="fine-tune")
    known = {"file_id": file, "training_file": file, "job_id": job.id, "upload_id": upload.id, "model": "tiny"}
    document = await _document(world)
    for of_path in document["paths"].values():
        for operation in of_path.values():
            for parameter in operation.get("parameters", ()):
                if parameter["name"] in known:
                    parameter["schema"] = _mostly(known[parameter["name"]], parameter["schema"])
            for content in operation.get("requestBody", {}).get("content", {}).values():
                properties = content["schema"]["properties"]
                for name in set(properties) & set(known):
                    properties[name] = _mostly(known[name], properties[name])
    return document


def _mostly(value: str, schema: Any) -> Any:
    return {"anyOf": [{"const": value}, {"enum": [value]}, schema]}


async def _fuzz(world: World, folder: Path, document: Any, *options: str) -> tuple[int, str]:
    """Run schemathesis against the gateway; return its exit code (0: nothing found, 1: something) and what it says."""
    (folder / "openapi.json").write_text(json.dumps(document))
    command = [
        sys.executable, "-m", "schemathesis.cli", "run", "openapi.json", "--url", world.gateway.url,
        "--header", f"Authorization: Bearer {world.gateway.secret}", "--checks", CHECKS, "--seed", SEED,
        "--max-examples", str(EXAMPLES), "--phases", "coverage,fuzzing", "--workers", "1", "--no-color", "--continue-on-failure",
        "--generation-database", "none", "--suppress-health-check", "all", *options,
    ]  # fmt: skip
    process = await asyncio.create_subprocess_exec(
        *command, cwd=folder, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return process.returncode, output.decode()

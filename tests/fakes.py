"""Doubles for what a real backend can't do on request: end a workload on cue, answer as told, stop the clock."""

import hashlib
import io
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO

from services.common.errors import ArtifactNotFound, InvalidInput, Unavailable
from services.common.ports.launcher import Launcher, LaunchManifest, Observation, Workload, WorkloadState
from services.common.ports.model_server import Activity, ModelServer
from services.common.ports.object_store import CHUNK_BYTES, Artifact, ObjectStore, key_parts


class MemoryObjectStore(ObjectStore):
    """Objects in memory, for thousands of schedules in a row."""

    url = "memory://"

    def __init__(self) -> None:
        self._objects: dict[str, bytes] = {}

    def put(self, prefix: str, stream: BinaryIO) -> Artifact:
        data = b"".join(iter(lambda: stream.read(CHUNK_BYTES), b""))
        digest = hashlib.sha256(data).hexdigest()
        key = f"{prefix}/{digest}"
        self._objects.setdefault(self._checked(key), data)
        return Artifact(key, len(data), digest)

    def open(self, key: str) -> BinaryIO:
        return io.BytesIO(self._found(key))

    def head(self, key: str) -> int:
        return len(self._found(key))

    def list(self, prefix: str) -> Iterator[str]:
        if prefix.rstrip("/"):
            key_parts(prefix.rstrip("/"))
        yield from sorted(key for key in self._objects if key.startswith(prefix))

    def commit(self, key: str, document: bytes) -> bool:
        if self._checked(key) in self._objects:
            return False
        self._objects[key] = bytes(document)
        return True

    def delete(self, key: str) -> None:
        self._objects.pop(self._checked(key), None)

    def _found(self, key: str) -> bytes:
        try:
            return self._objects[self._checked(key)]
        except KeyError as error:
            raise ArtifactNotFound(f"The object store has no {key}.", metadata={"key": key}) from error

    @staticmethod
    def _checked(key: str) -> str:
        key_parts(key)
        return key


class ScriptedLauncher(Launcher):
    """A launcher whose workloads end when the test says so."""

    def __init__(self) -> None:
        self.manifests: dict[str, LaunchManifest] = {}
        self.observations: dict[str, Observation] = {}
        self.stopped: list[str] = []
        self.errands: dict[str, LaunchManifest] = {}
        self.run_errand: Callable[[LaunchManifest], None] = lambda manifest: None  # at once, and within the test
        self.output = b""

    def plan(self, workload: Workload) -> LaunchManifest:
        return {
            "key": workload.key,
            "kind": workload.kind,
            "command": list(workload.command),
            "environment": dict(workload.environment),
            "labels": dict(workload.labels),
        }

    async def launch(self, manifest: LaunchManifest) -> None:
        if manifest["kind"] == "errand":
            self.errands[manifest["key"]] = manifest
            self.run_errand(manifest)
            return
        if manifest["key"] not in self.manifests:
            self.manifests[manifest["key"]] = manifest
            self.observations.setdefault(manifest["key"], Observation(WorkloadState.RUNNING))

    async def observe(self, key: str) -> Observation:
        if key in self.errands:
            return Observation(WorkloadState.SUCCEEDED, 0)
        if key not in self.manifests:
            return Observation(WorkloadState.GONE)
        return self.observations[key]

    async def stop(self, key: str) -> None:
        self.stopped.append(key)
        if key in self.manifests and not self.observations[key].has_ended:
            self.end(key, 143)

    async def logs(self, key: str, after: int = 0) -> tuple[bytes, int]:
        return self.output[after:], max(after, len(self.output))

    def end(self, key: str, exit_code: int) -> None:
        """Let a workload end."""
        state = WorkloadState.SUCCEEDED if exit_code == 0 else WorkloadState.FAILED
        self.observations[key] = Observation(state, exit_code, f"It ended with exit code {exit_code}.")

    def environment(self, key: str) -> dict[str, str]:
        """What a workload was given."""
        return dict(self.manifests[key]["environment"])


def scripted_count(store: ObjectStore, lengths: Sequence[int] = (20,), trained: int = 5) -> Callable[[LaunchManifest], None]:
    """Return an errand that counts as told: every part has rows of these lengths, in which so many tokens carry loss."""

    def count(manifest: LaunchManifest) -> None:
        spec = json.loads(store.read(manifest["environment"]["AFINA_SPEC"]))
        parts = [part for part in ("train", "validation") if spec["dataset"][part]]
        told = {part: {"lengths": list(lengths), "trained_token_count": trained} for part in parts}
        store.commit(spec["result_key"], json.dumps(told).encode())

    return count


class ScriptedModelServer(ModelServer):
    """An engine that gives one number for every token of a model, and the same token ids for every chat."""

    def __init__(self, base_digest: str, answers: dict[str, float], refused: set[str]) -> None:
        self.is_running = True
        self.known = [base_digest]
        self.answers = answers
        self.refused = refused
        self.template = [1, 2, 3]
        self.running_count = self.answered_count = 0
        self.tells_activity = True
        self.loads: list[str] = []
        self.refusals: list[str] = []

    async def is_up(self) -> bool:
        return self.is_running

    async def load(self, digest: str) -> None:
        self._require_running()
        if digest in self.refused:
            self.refusals.append(digest)
            raise InvalidInput(f"The engine refuses {digest}.", reason="SERVER_REFUSED")
        if digest not in self.known:
            self.known.append(digest)
            self.loads.append(digest)

    async def unload(self, digest: str) -> None:
        self._require_running()
        if digest in self.known[1:]:
            self.known.remove(digest)

    async def loaded(self) -> list[str]:
        self._require_running()
        return list(self.known)

    async def activity(self) -> Activity:
        self._require_running()
        if not self.tells_activity:
            raise Unavailable("The scripted server is too busy to say how busy it is.")
        return Activity(self.running_count, self.answered_count)

    async def token_ids(self, digest: str, messages: Sequence[dict[str, Any]]) -> list[int]:
        self._require_known(digest)
        return list(self.template)

    async def logprobs(self, digest: str, prefix_token_ids: Sequence[int], token_ids: Sequence[int]) -> list[float]:
        self._require_known(digest)
        self.answered_count += 1
        return [self.answers.get(digest, -1.0)] * len(token_ids)

    def _require_running(self) -> None:
        if not self.is_running:
            raise Unavailable("The scripted server is down.")

    def _require_known(self, digest: str) -> None:
        self._require_running()
        if digest not in self.known:
            raise InvalidInput(f"The engine does not know {digest}.", reason="SERVER_REFUSED")

"""Doubles for what a real backend can't do on request: end a workload on cue, answer as told, stop the clock."""

from services.common.ports.launcher import Launcher, LaunchManifest, Observation, Workload, WorkloadState


class ScriptedLauncher(Launcher):
    """A launcher whose workloads end when the test says so."""

    def __init__(self) -> None:
        self.manifests: dict[str, LaunchManifest] = {}
        self.observations: dict[str, Observation] = {}
        self.stopped: list[str] = []

    def plan(self, workload: Workload) -> LaunchManifest:
        return {
            "key": workload.key,
            "kind": workload.kind,
            "command": list(workload.command),
            "environment": dict(workload.environment),
            "labels": dict(workload.labels),
        }

    async def launch(self, manifest: LaunchManifest) -> None:
        if manifest["key"] not in self.manifests:
            self.manifests[manifest["key"]] = manifest
            self.observations.setdefault(manifest["key"], Observation(WorkloadState.RUNNING))

    async def observe(self, key: str) -> Observation:
        if key not in self.manifests:
            return Observation(WorkloadState.GONE)
        return self.observations[key]

    async def stop(self, key: str) -> None:
        self.stopped.append(key)
        if key in self.manifests and not self.observations[key].has_ended:
            self.end(key, 143)

    async def logs(self, key: str, after: int = 0) -> tuple[bytes, int]:
        return b"", after

    def end(self, key: str, exit_code: int) -> None:
        """Let a workload end."""
        state = WorkloadState.SUCCEEDED if exit_code == 0 else WorkloadState.FAILED
        self.observations[key] = Observation(state, exit_code, f"It ended with exit code {exit_code}.")

    def environment(self, key: str) -> dict[str, str]:
        """What a workload was given."""
        return dict(self.manifests[key]["environment"])

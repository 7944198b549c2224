"""Gives vLLM an adapter that it does not know yet: by digest from the object store, verified, or not at all.

vLLM asks on the first request for an unknown model name and holds a lock per name meanwhile, so of many first requests
one fetches. The folder has the digest in its path and is never deleted: an evicted adapter is read again from there, and
where the folder is gone the engine dies.
"""

import asyncio
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vllm.lora.request import LoRARequest
from vllm.lora.resolver import LoRAResolver

from services.common.backends import choose
from services.common.errors import ArtifactNotFound, InvalidInput, Violation
from services.common.ports.manifest import Manifest, fetch_folder
from services.common.ports.object_store import ObjectStore
from services.inference.adapter_checks import check_adapter, folder_modules

log = logging.getLogger("vllm.afina")


@dataclass
class AdapterResolver(LoRAResolver):
    """Resolves names that are digests of adapters for the one base that this server serves."""

    store: ObjectStore
    cache: Path
    base_digest: str
    max_rank: int

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "AdapterResolver":
        """Build it from what inference gave the server (see `services.common.backends.model_server.vllm`)."""
        return cls(
            choose.object_store(environment["AFINA_ADAPTER_STORE"]),
            Path(environment["AFINA_CACHE"]),
            environment["AFINA_BASE_DIGEST"],
            int(environment["AFINA_MAX_LORA_RANK"]),
        )

    async def resolve_lora(self, base_model_name: str, lora_name: str) -> LoRARequest | None:
        """Return the adapter of that digest, or None, which vLLM answers with 404. `base_model_name` is the base's folder.

        Raises: Unavailable (the store is away), which vLLM answers with 500; the next request tries again.
        """
        if not re.fullmatch(r"[0-9a-f]{64}", lora_name):
            return None
        try:
            folder = await asyncio.to_thread(self._fetch, Path(base_model_name), lora_name)
        except (ArtifactNotFound, InvalidInput) as error:
            log.error("Adapter %s is refused: %s %s", lora_name, error.message, _told(error.violations))
            return None
        return LoRARequest(lora_name=lora_name, lora_int_id=int(lora_name[:15], 16) + 1, lora_path=str(folder))

    def _fetch(self, base_folder: Path, digest: str) -> Path:
        manifest = Manifest.from_json(self.store.read(f"manifests/adapters/{digest}.json"))
        if manifest.digest != digest:
            raise InvalidInput(f"The manifest of {digest} describes {manifest.digest}.", reason="MANIFEST_DIGEST_MISMATCH")
        folder = fetch_folder(self.store, manifest, self.cache, is_read_again=True)  # small, and disks forget
        violations = check_adapter(
            folder,
            folder_modules(base_folder),
            base_digest=self.base_digest,
            told_base_digest=str(manifest.data.get("base", {}).get("digest", "")),
            max_rank=self.max_rank,
        )
        if violations:
            raise InvalidInput("It is not what this base can serve.", reason="ADAPTER_INVALID", violations=violations)
        return folder


def _told(violations: list[Violation]) -> str:
    return "; ".join(f"{violation.reason} {violation.description}" for violation in violations[:5])

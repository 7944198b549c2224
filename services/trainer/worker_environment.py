"""The environment that a training worker should be started with; plain data, so that the control plane needs no torch.

These are read by the C library and by OpenMP before Python runs, so a worker can't set them for itself.
"""

from collections.abc import Mapping
from types import MappingProxyType

RECOMMENDED: Mapping[str, str] = MappingProxyType(
    {
        # A training step allocates and frees the same large blocks; by default each goes back to the system and is
        # faulted in again. Keep them: no mmap for large blocks, no trimming, and grow the heap in large pieces.
        "MALLOC_MMAP_MAX_": "0",
        "MALLOC_TRIM_THRESHOLD_": str(4 << 30),
        "MALLOC_TOP_PAD_": str(64 << 20),
        # Idle threads sleep instead of spinning: other programs share the cores.
        "OMP_WAIT_POLICY": "passive",
        "TOKENIZERS_PARALLELISM": "false",
        # A worker reads a folder that was fetched by digest. It has nothing to ask a hub.
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "PYTHONUNBUFFERED": "1",
    }
)

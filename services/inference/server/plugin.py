"""vLLM's way in: it calls `register` in each of its processes, before the engine starts.

Every vLLM in the environment finds this entry point, also one that has nothing to do with Afina, so it does nothing and
imports nothing unless inference started the server, which the environment says.
"""

import os

STORE_VARIABLE = "AFINA_ADAPTER_STORE"


def register() -> None:
    """Let vLLM ask for adapters by digest. Idempotent."""
    if not os.environ.get(STORE_VARIABLE):
        return
    from vllm.lora.resolver import LoRAResolverRegistry

    from services.inference.server.resolver import AdapterResolver

    LoRAResolverRegistry.register_resolver("afina", AdapterResolver.from_environment(os.environ))

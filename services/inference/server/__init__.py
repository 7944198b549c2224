"""What lives inside the model server's own processes: the plugin that gives vLLM adapters by digest."""

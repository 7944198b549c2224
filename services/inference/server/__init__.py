"""What lives inside the model server's own processes: adapters by digest for vLLM (a plugin), and the guard at its door."""

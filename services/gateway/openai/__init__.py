"""OpenAI's HTTP API: its paths, its words, its errors; one file a noun. What it means is decided by the other programs."""

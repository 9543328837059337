"""Judge servers that a run starts and ends itself: real vLLM processes, on Ray or without it."""

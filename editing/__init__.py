"""The pure core: tasks, masks, noise, flow, attention and editors on plain torch; never Ray."""

"""The reward pool as an HTTP service: `python -m rewards.service`."""

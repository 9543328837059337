"""Embedding models that score edits without a judge: CLIP or SigLIP, and DINO, from folders on this machine."""

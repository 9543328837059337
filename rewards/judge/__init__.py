"""Multimodal judges behind OpenAI-compatible servers: requests, routing, limits."""

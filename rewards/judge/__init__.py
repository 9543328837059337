"""Multimodal judges behind OpenAI-compatible servers: questions, routing, limits."""

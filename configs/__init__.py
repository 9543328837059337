"""Configuration: pydantic schema, YAML presets and dotted overrides; imports nothing of ours."""

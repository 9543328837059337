"""Configuration: pydantic schema, YAML presets and dotted overrides; imports no other package of Locus."""

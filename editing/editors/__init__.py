"""Image editors behind one interface: encode, velocity, decode, and LoRA on their transformers."""

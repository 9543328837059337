"""How the embedded base editor was made; `python -m editing.shapes.pretrain` makes it again."""

"""The recipe of the embedded base editor; `python -m editing.shapes.pretrain` reproduces it."""

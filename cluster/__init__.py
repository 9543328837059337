"""Ray start-up, placement and scaling; imports configs only."""

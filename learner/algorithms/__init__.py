"""Methods, each a short composition of exploration, surrogate, advantages and preservation terms."""

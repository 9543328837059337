"""Methods, each a short composition of queries and terms; formulas in modules of their own."""

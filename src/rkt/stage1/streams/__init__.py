"""Output, terminals and signals: carried without ever waiting."""

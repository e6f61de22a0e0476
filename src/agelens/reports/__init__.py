"""Everything that is drawn: pages, plots, tables."""

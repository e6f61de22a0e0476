"""How good a system is: predictions and labels in, metrics by group with intervals out."""

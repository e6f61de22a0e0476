"""How a network is trained: stages, the epoch loop, recipes and run folders."""

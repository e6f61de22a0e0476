"""Training of networks: stages, the epoch loop, recipes and run folders."""

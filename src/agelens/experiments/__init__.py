"""Studies made of training runs: train, folds, sweep, ladder, generations, trade-off."""

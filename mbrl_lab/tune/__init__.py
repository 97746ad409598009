"""Hyperparameter search: trials are runs, and any number of workers share one study."""

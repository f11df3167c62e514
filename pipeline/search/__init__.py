"""Search for settings: which trials to train, for how long, and what they show. Optuna draws their parameters."""

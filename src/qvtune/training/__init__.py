"""One run: configuration, model, trainer, checkpoints, evaluation, prediction."""

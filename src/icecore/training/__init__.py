"""Training: the one loop, optimizer, checkpoints, micro-batches, stored features, evaluation, and several processes."""

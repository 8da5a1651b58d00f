"""Optimizers that torch.optim has not, or not for sharded weights: one file each, in plain PyTorch."""

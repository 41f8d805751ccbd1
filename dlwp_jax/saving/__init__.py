"""Files of a training: checkpoints that it resumes from, and weights for other programs.

`store` writes and reads checkpoints whole or not at all; `weights` are a model's arrays alone.
When a training is saved, and how it goes on, is decided in `dlwp_jax.train.resume`.
"""

"""Files of a training: checkpoints that it resumes from, and weights for other programs.

`store` writes and reads checkpoints whole or not at all; `resume` decides when to save and
brings a training back to its place; `identity` tells whether a checkpoint is of the same
training; `weights` are a model's arrays alone.
"""

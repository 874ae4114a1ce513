"""One file per detector: a step of training on a batch of images."""

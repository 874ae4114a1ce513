"""One file per built model of another package: what ``fastdet.accelerate`` brings to it."""

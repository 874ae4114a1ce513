"""How panoptic results hold a class and an instance in one number."""

__all__ = ["INSTANCE_OFFSET"]

#: A pixel of instance i of class c is ``c + i * INSTANCE_OFFSET``.
INSTANCE_OFFSET = 1000

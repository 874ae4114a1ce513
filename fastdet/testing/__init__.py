"""What fastdet's own tests are held by, for the tests of its users.

:func:`assert_accurate` holds a result by the one tolerance table; :mod:`~fastdet.testing.golden`
reads the records of what MMDetection computed and computes it again. Nothing in production imports
this package.
"""

from .accuracy import FLOOR, MARGIN, assert_accurate, errors, granted, share

__all__ = ["FLOOR", "MARGIN", "assert_accurate", "errors", "granted", "share"]

"""The kernel every room shares: settings, the words as schemas, categories, lake paths, logs and the command line.

Imports nothing of the other rooms; only `fingerpost.cli` reaches into them, inside its functions.
"""

__version__ = "0.1.0"

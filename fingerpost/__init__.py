"""The core that every room shares: records, categories, settings, lake, engine API, telemetry, access logs.

Imports no room; the rooms are folders of the repository, linked here so that all import as `fingerpost.ROOM`.
"""

__version__ = "0.1.0"

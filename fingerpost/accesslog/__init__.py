"""Access logs: their formats, written and read in one place, and the following of a log that grows and rotates.

Part of the core; imports the core alone.
"""

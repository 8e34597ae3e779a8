"""Turns request records and host samples into windows and features, in Parquet; training and serving share them.

May import `routing` and the core.
"""

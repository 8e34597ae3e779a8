"""Compiled trees: boosters as arrays and the kernel that scores them. Imports the core alone."""

"""Has the world changed since a version was trained, and is what is measured fit to judge by.

May import what `abtest` may, but not `fingerpost.abtest.promotion`.
"""

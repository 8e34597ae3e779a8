"""Scores LightGBM's trees several times as fast as LightGBM, with predictions that are equal to the bit.

`fast` checks a booster's trees and lays them out as flat arrays; `kernel` goes through these, and is compiled when
it is imported, which takes seconds; `compiled` keeps the arrays in a file beside the model. May import the core alone.
"""

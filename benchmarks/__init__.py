"""Measurements of the program's own cost. Figures, never pass or fail; may import every other room."""

"""A fleet of machines on this one, each a network namespace. May import every room, and the demo."""

"""The demo: starts every part as a process of its own and takes the loop through once. May import every room."""

"""The Prefect flows and their one table of schedules; thin, they call the rooms below.

May import every room but `cli`, `agent` and `simulator`.
"""

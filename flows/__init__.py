"""The Prefect flows and their schedules: thin, they only call the rooms below. May import every other room."""

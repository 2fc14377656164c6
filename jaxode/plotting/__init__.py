"""Figures: functions that take and return a matplotlib Axes."""

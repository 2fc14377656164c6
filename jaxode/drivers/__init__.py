"""The routines that users call, and their options."""

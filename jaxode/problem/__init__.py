"""The initial value problem: its validation, its packed arrays, its errors and status codes."""

"""The initial value problem: validated, packed into arrays, with its errors and status codes."""

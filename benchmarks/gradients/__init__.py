"""Time, evaluations and memory of gradients, beside peers."""

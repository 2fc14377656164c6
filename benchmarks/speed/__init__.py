"""Time of forward solves, batches, stiff problems, events and models, beside peers."""

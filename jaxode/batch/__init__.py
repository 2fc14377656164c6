"""Many trajectories at once: lanes that step together, and a queue that refills them."""

"""Ways to differentiate a solve, each a rule of its own for the same forward run."""

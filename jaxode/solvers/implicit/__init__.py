"""One-step solvers for stiff problems: Rosenbrock, ESDIRK and collocation methods."""

"""Events and discontinuities: their detection, root finding, and restart of the integrator."""

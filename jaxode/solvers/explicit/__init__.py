"""Explicit Runge-Kutta solvers, stabilised and reversible ones among them."""

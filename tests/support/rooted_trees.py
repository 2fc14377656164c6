"""Rooted trees, by which the order conditions of Runge-Kutta and Rosenbrock methods are written."""

from jaxode.solvers.explicit.order_conditions import density, nodes, stage_weights, trees

__all__ = ["density", "nodes", "stage_weights", "trees"]

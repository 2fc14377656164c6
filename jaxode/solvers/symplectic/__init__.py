"""Symplectic splitting methods and Runge-Kutta-Nystrom methods."""

"""Steppers: each solver is a tableau of data and the one shared explicit step."""

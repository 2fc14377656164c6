"""Derivative rules of solves."""

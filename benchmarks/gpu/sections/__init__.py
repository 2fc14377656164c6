"""Sections of the GPU benchmark: each module builds the jobs of one."""

"""Second and higher derivatives in reverse mode: the steps of a solve as a differentiable scan."""

"""The forward solve of one trajectory: the loop over steps, events, save points, the solution."""

"""The forward solve of one trajectory: the loop over steps, its events, what it saves."""

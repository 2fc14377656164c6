"""jaxode beside its peers on a GPU, measured in under eight minutes by `make bench-gpu`."""

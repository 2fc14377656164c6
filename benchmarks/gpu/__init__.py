"""jaxode beside its peers on a GPU, in under eight minutes. Run with `make bench-gpu`."""

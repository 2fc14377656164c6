"""Tools shared by the benchmarks: timing, errors, tables, pages, and the peers."""

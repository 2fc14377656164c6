"""The drivers that users call (`solve`, `solve_batch`, `steady_state`, `odeint`), their options."""

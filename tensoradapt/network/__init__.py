"""The normal form: every expression as a sum of tensor networks."""

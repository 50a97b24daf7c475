"""The algebra of updates: frozen expressions over named leaves."""

"""What can be said of an update without training it: rank bounds, counts."""

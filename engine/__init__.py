"""What is true: pure functions and the classes of the brief over columns."""

"""Export and run-time back ends."""

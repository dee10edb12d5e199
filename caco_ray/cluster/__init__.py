"""The Ray cluster that a run works on: joined, looked at, and asked for room."""

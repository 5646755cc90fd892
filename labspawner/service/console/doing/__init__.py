"""What the console does, for its pages and its REST API alike: plain functions of the house, the caller, and plain data."""

"""What administrators see in the console, decided without a request: the hub's answers in, rows and sentences out."""

"""The student's home page: what runs, for how long, what it uses, and what can be done about it."""

"""What hosts servers. `contract` is the interface; each provider is a room of its own and knows no other."""

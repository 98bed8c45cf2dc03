"""What is done to a whole network: quantizing it, and preparing it for that."""

"""What the engines take on a CPU, beside PyTorch in eager mode running upstream's algorithm."""

"""What a network costs beside its size: operations, memory, time."""

"""What training and decoding cost, found by a dry run: operations, memory, and the traffic of decoding."""

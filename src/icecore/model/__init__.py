"""The model: input layer, positions, body and output layer with a run axis, and the program file."""

"""Where independent work is done: in this process and those it starts, or on a Ray cluster."""

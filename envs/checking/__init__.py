"""Whether an environment can be trusted: equal starts, what it returns, what it declares."""

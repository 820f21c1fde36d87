"""Recording by hand: what a person moves, a window, and the episodes that come of it. Nothing here
needs torch.
"""

"""Robots that a policy drives: the control loop, what it is fed, how it stops, and `alltrades
deploy`.
"""

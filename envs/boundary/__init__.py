"""The boundary to an environment that somebody else wrote: what it returns, what it draws from,
where it raised.
"""

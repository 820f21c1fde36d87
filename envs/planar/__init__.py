"""Built-in planar MuJoCo tasks with scripted experts."""

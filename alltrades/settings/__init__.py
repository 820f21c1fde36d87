"""Settings: the models, recipes, and how defaults, files and the command line are merged."""

"""The commands. Each is thin: it reads its arguments and calls what the package offers."""

"""The suite: what is timed, weighed and counted at every commit. Names come from the registries: a new plug-in joins by itself."""

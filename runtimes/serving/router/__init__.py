"""One address for several replicas of a server."""

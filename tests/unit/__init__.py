"""One room at a time. Few of these tests start a server."""

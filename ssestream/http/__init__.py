"""One response on its way to one client."""

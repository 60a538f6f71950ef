"""Where code runs: threads, gevent hubs, timers, events. It knows nothing of HTTP."""

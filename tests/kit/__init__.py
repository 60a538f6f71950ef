"""What tests share: servers, clients, messages, brokers, a proxy, and waiting for a state."""

"""Running models: how fast they answer."""

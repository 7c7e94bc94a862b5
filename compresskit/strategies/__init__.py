"""The built-in strategies, one idea per file. The core never imports them: they come through the hooks, as plugins."""

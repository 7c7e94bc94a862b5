"""Where the pages of docs/reference/ come from, one module per subject."""
